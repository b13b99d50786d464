"""A table's version cut into runs of rows, so that many tasks share it and none holds it whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heliostat.config import require
from heliostat.data import reading
from heliostat.data.reading import ActiveFile
from heliostat.data.tables import Catalog
from heliostat.errors import HeliostatError, nearest

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """A run of rows within one file of a version."""

    file: ActiveFile

    start: int
    """First row, counted from 0 in the file."""

    num_rows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class SlicedTable:
    """Some columns of one version of a table, in slices; travels to workers."""

    catalog: Catalog
    name: str
    version: int
    columns: Mapping[str, Any]
    """Polars type of each column that is read."""
    slices: tuple[Slice, ...]
    """In the order of the table's rows."""

    @property
    def num_rows(self) -> int:
        """Rows of all slices."""
        return sum(item.num_rows for item in self.slices)

    def read(self, index: int) -> pl.DataFrame:
        """Read one slice; no more of its file is held than that, on local disk.

        Raises:
            HeliostatError: The file is gone or is no whole Parquet file.
        """
        part = self.slices[index]
        folder = self.catalog.storage(self.name)
        frame = reading.read_file(
            folder, part.file, self.columns, start=part.start, num_rows=part.num_rows
        )
        if frame.height != part.num_rows:
            raise HeliostatError(
                f"{part.file.path}: {frame.height} rows from {part.start}, the log says"
                f" {part.num_rows}"
            )
        return frame


def cut(
    catalog: Catalog,
    name: str,
    version: int | None = None,
    *,
    columns: Sequence[str],
    max_rows: int,
) -> SlicedTable:
    """Cut a version (the newest if None) into slices of at most `max_rows` rows.

    The same version gives the same slices each time.

    Raises:
        ConfigError: The table, the version or a column does not exist.
    """
    require(max_rows > 0, "slices.max_rows", max_rows, "must be above 0")
    found = catalog.version(name) if version is None else version
    schema = catalog.schema(name, found)
    for column in columns:
        require(
            column in schema, f"table {name}.columns", column, "must exist",
            breaks=nearest(column, schema),
        )  # fmt: skip
    assert found is not None  # `schema` has refused a table that does not exist
    return SlicedTable(
        catalog=catalog,
        name=name,
        version=found,
        columns={column: schema[column] for column in columns},
        slices=tuple(
            Slice(file=file, start=start, num_rows=min(max_rows, file.num_rows - start))
            for file in catalog.active(name, found)
            for start in range(0, file.num_rows, max_rows)
        ),
    )
