"""Append rows and move positions of where they came from, in one commit: exactly once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.config import require
from heliostat.data import commits, reading, storage
from heliostat.data.commits import Change
from heliostat.data.staging import require_run
from heliostat.data.tables import Catalog
from heliostat.errors import HeliostatError

if TYPE_CHECKING:
    import polars as pl


class Moved(HeliostatError):
    """Somebody else has committed from here: what was brought must be read anew."""

    def __init__(self, table: str, place: str, *, found: int | None, begin: int) -> None:
        super().__init__(
            f"table {table}: the position of {place} is {found}, and rows came that begin at "
            f"{begin}; another writer has committed meanwhile"
        )
        self.place = place


@dataclass(frozen=True, kw_only=True, slots=True)
class Stretch:
    """Part of a numbered sequence: from `begin` up to, and without, `end`."""

    begin: int
    end: int

    def __post_init__(self) -> None:
        require(0 <= self.begin <= self.end, "stretch.end", self.end, f"must be >= {self.begin}")


def positions(catalog: Catalog, name: str, places: Sequence[str]) -> dict[str, int]:
    """Where each place's next row begins; absent where none was ever committed."""
    table = catalog._open(name)
    if table is None:
        return {}
    found = {place: table.transaction_version(_id(place)) for place in places}
    return {place: number for place, number in found.items() if number is not None}


def append(
    catalog: Catalog,
    name: str,
    rows: pl.DataFrame,
    stretches: Mapping[str, Stretch],
    *,
    run_id: str,
    part: int,
    partition_by: Sequence[str] = (),
    details: dict[str, Any] | None = None,
    tags: Mapping[str, str] | None = None,
) -> int:
    """Append what was read from some places, if each still stands where the reading began.

    Rows and positions become visible together. Of two writers that bring the same stretch one
    commits; a kill leaves both or neither. No row is needed to move a position.

    Args:
        catalog: Where the table is.
        name: The table; made if absent.
        rows: All rows of the stretches; what is no row of this table may be left out.
        stretches: What was read, by place, such as ``orders/3`` for a topic's partition.
        run_id: Names the files; constant for a stream, so that the log does not grow by it.
        part: Counts the writer's commits, for the files' names.
        partition_by: Partition columns of a table that is made.
        details: Plain values to store with the commit.
        tags: Kind of personal data by column.

    Returns:
        The version of the table that holds them.

    Raises:
        Moved: A position is not where its stretch begins; nothing was committed.
    """
    from heliostat.data import pii

    require_run(run_id)
    files = catalog.stage_partitions(
        name, rows, run_id=run_id, part=part, partition_by=partition_by
    )
    change = Change(
        add=files,
        mode="append",
        columns=pii.tagged(reading.delta_schema(rows.head(0).to_arrow().schema), dict(tags or {})),
        partition_by=tuple(partition_by),
        numbers={_id(place): stretch.end for place, stretch in stretches.items()},
    )
    kept = {
        "operation": "append",
        "positions": {place: [item.begin, item.end] for place, item in stretches.items()},
        **(details or {}),
    }
    while True:
        table = catalog._open(name)
        for place, stretch in stretches.items():
            found = None if table is None else table.transaction_version(_id(place))
            if found is not None and found != stretch.begin:
                raise Moved(name, place, found=found, begin=stretch.begin)
        if commits.attempt(name, catalog._made(name), table, change, run_id=run_id, details=kept):
            return 0 if table is None else table.version() + 1


def rows(
    catalog: Catalog,
    name: str,
    columns: Sequence[str],
    where: pl.Expr,
    *,
    version: int | None = None,
) -> pl.DataFrame:
    """Read some columns of the rows that a condition holds for; empty if there is no table.

    On local disk, whole row groups are left out by their least and greatest values.
    """
    import polars as pl

    if catalog.version(name) is None:
        return pl.DataFrame()
    if storage.is_url(catalog.root):
        return catalog.read(name, version).filter(where).select(columns)
    paths: list[Path] = catalog.files(name, version)
    if not paths:
        return catalog.read(name, version, columns)
    scan = pl.scan_parquet(paths, hive_partitioning=False, missing_columns="insert")
    return scan.filter(where).select(columns).collect()


def _id(place: str) -> str:
    return f"heliostat/position/{place}"
