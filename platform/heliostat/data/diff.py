"""What differs between two versions of a table: files, columns and rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from heliostat.data import reading
from heliostat.data.reading import ActiveFile
from heliostat.data.tables import Catalog

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, kw_only=True, slots=True)
class Diff:
    """How to get from one version to the other."""

    table: str
    from_version: int
    to_version: int
    files_added: int
    files_removed: int
    columns_added: tuple[str, ...]
    columns_removed: tuple[str, ...]
    columns_retyped: tuple[str, ...]
    rows_inserted: pl.DataFrame
    """Rows, or rows of new keys, that only the second has."""
    rows_deleted: pl.DataFrame
    """Rows, or rows of keys, that only the first has."""
    rows_updated: pl.DataFrame
    """New values of keys that both have with different values; empty without keys."""


def diff(
    catalog: Catalog,
    name: str,
    from_version: int,
    to_version: int,
    *,
    keys: Sequence[str] = (),
) -> Diff:
    """Compare two versions row by row; only files that are not in both are read.

    Rows are compared in the columns that both versions have with one type. Without keys a row
    is what its values are: of two equal rows, one more is one inserted.

    Args:
        catalog: Where the table lives.
        name: Table.
        from_version: The first.
        to_version: The second.
        keys: Columns that name a row, to tell an update from a row gone and a row come.

    Raises:
        ConfigError: A version or a key does not exist.
    """
    old, new = catalog.schema(name, from_version), catalog.schema(name, to_version)
    before = {file.path: file for file in catalog.active(name, from_version)}
    after = {file.path: file for file in catalog.active(name, to_version)}
    shared = [column for column in new if old.get(column) == new[column]]
    for key in keys:
        catalog.read(name, to_version, columns=[key], where={key: []})
    kinds = {column: new[column] for column in shared}
    left = _rows(catalog, name, [f for path, f in before.items() if path not in after], kinds)
    right = _rows(catalog, name, [f for path, f in after.items() if path not in before], kinds)
    left, right = _without_equal(left, right)
    updated = right.head(0)
    if keys:
        by = list(keys)
        updated = right.join(left, on=by, how="semi", nulls_equal=True)
        left = left.join(updated, on=by, how="anti", nulls_equal=True)
        right = right.join(updated, on=by, how="anti", nulls_equal=True)
    return Diff(
        table=name,
        from_version=from_version,
        to_version=to_version,
        files_added=len(after.keys() - before.keys()),
        files_removed=len(before.keys() - after.keys()),
        columns_added=tuple(column for column in new if column not in old),
        columns_removed=tuple(column for column in old if column not in new),
        columns_retyped=tuple(c for c in new if c in old and old[c] != new[c]),
        rows_inserted=right,
        rows_deleted=left,
        rows_updated=updated,
    )


def _rows(
    catalog: Catalog, name: str, files: Sequence[ActiveFile], kinds: dict[str, pl.DataType]
) -> pl.DataFrame:
    import polars as pl

    folder = catalog._folder(name)
    frames = [reading.read_file(folder, file, kinds) for file in files]
    return pl.concat(frames) if frames else reading.empty(kinds)


def _without_equal(left: pl.DataFrame, right: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Take away rows that both have, as often as both have them."""
    import polars as pl

    if not left.width:
        return left, right
    nth = pl.int_range(pl.len()).over(left.columns).alias("__nth")
    one, two = left.with_columns(nth), right.with_columns(nth)
    by = one.columns
    return (
        one.join(two, on=by, how="anti", nulls_equal=True, maintain_order="left").drop("__nth"),
        two.join(one, on=by, how="anti", nulls_equal=True, maintain_order="left").drop("__nth"),
    )
