"""Open a Delta table at a version and read its rows with Polars."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from heliostat.data import recent
from heliostat.data import storage as places
from heliostat.data.staging import StagedFile, matches, partition_text
from heliostat.data.storage import LocalFolder, Storage
from heliostat.errors import ConfigError, HeliostatError

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable

_MANY_FILES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class ActiveFile:
    """A file that a version holds."""

    path: str
    """As the log names it."""

    num_rows: int

    size_bytes: int

    partition: tuple[tuple[str, str | None], ...]

    @property
    def location(self) -> str:
        """Where it lies below the table's folder: the log's name is percent-encoded."""
        return unquote(self.path)

    @property
    def staged(self) -> StagedFile:
        """The same file as a commit takes it."""
        return StagedFile(
            path=self.path,
            num_rows=self.num_rows,
            size_bytes=self.size_bytes,
            partition=self.partition,
        )


def open_table(folder: Storage, *, to_read: bool = False) -> DeltaTable | None:
    """Open the newest version, or None if there is no table.

    Args:
        folder: The table's.
        to_read: Whether only its version, columns and files are asked for; see `recent`.

    Raises:
        Unavailable: An object store does not answer or refuses.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    found = recent.open_newest(folder) if to_read else None
    if found is not None:
        return found
    try:
        return DeltaTable(folder.url, storage_options=folder.options)
    except TableNotFoundError:
        return None
    except (DeltaError, OSError) as error:
        if places.is_url(folder.url):
            # Not chained: the client's own words may hold the request and its headers.
            raise places.unavailable(folder.url, error) from None
        raise


def travel(name: str, table: DeltaTable, version: int) -> None:
    """Turn an open table to an older version.

    Raises:
        ConfigError: The version was cleaned up by a vacuum.
    """
    from deltalake.exceptions import DeltaError

    try:
        table.load_as_version(version)
    except DeltaError as error:
        raise ConfigError(
            f"table {name}.version", version, "must be a version that vacuum has kept",
            next_step=f"heliostat table history {name} lists them",
        ) from error  # fmt: skip


def schema(table: DeltaTable) -> dict[str, Any]:
    """Column names and Polars types of an open table."""
    import polars as pl

    frame = pl.from_arrow(arrow(table).empty_table())
    assert isinstance(frame, pl.DataFrame)
    return dict(frame.schema)


def arrow(table: DeltaTable) -> Any:
    """Columns of an open table as a pyarrow schema."""
    import pyarrow as pa

    return pa.schema(table.schema().to_arrow())


def empty(columns: Mapping[str, Any]) -> pl.DataFrame:
    """No rows of these columns."""
    import polars as pl

    return pl.DataFrame(schema=dict(columns))


def delta_schema(columns: Any) -> Any:
    """Turn a Polars or Arrow schema into Delta's."""
    import polars as pl
    from deltalake import Schema

    if isinstance(columns, pl.Schema):
        columns = pl.DataFrame(schema=columns).to_arrow().schema
    return Schema.from_arrow(columns)


def delta_types(columns: Any) -> dict[str, str]:
    """Name and type of each column of a Delta schema, as Delta writes them."""
    return {item.name: str(json.loads(item.type.to_json())).strip('"') for item in columns.fields}


def active(table: DeltaTable) -> list[ActiveFile]:
    """The files of an open table, sorted by path."""
    import pyarrow as pa

    rows = pa.table(table.get_add_actions(flatten=False)).to_pylist()
    files = [
        ActiveFile(
            path=row["path"],
            num_rows=row.get("num_records") or 0,
            size_bytes=row["size_bytes"],
            partition=tuple(
                (name, partition_text(value))
                for name, value in (row.get("partition") or {}).items()
            ),
        )
        for row in rows
    ]
    return sorted(files, key=lambda file: file.path)


def read(
    folder: Storage, table: DeltaTable, columns: Sequence[str], where: Mapping[str, Sequence[Any]]
) -> pl.DataFrame:
    """Read rows of an open table, file by file in order.

    Raises:
        HeliostatError: A file is gone or is no whole Parquet file.
    """
    import polars as pl

    kinds = schema(table)
    loaded = list(dict.fromkeys([*columns, *where]))
    wanted = {name: kinds[name] for name in loaded}
    files = [file for file in active(table) if matches(file.staged, where)]
    frames = read_files(folder, files, wanted)
    if not frames:
        return empty({name: kinds[name] for name in columns})
    rows = pl.concat(frames, how="vertical")
    for name, values in where.items():
        rows = rows.filter(pl.col(name).is_in(list(values)))
    return rows.select(columns)


def read_files(
    folder: Storage, files: Sequence[ActiveFile], wanted: Mapping[str, Any]
) -> list[pl.DataFrame]:
    """Read columns of files of one version; the frames together are their rows, in order.

    Raises:
        HeliostatError: A file is gone or is no whole Parquet file.
    """
    together = _read_alike(folder, files, wanted)
    if together is not None:
        return [together]
    return [read_file(folder, file, wanted) for file in files]


def _read_alike(
    folder: Storage, files: Sequence[ActiveFile], wanted: Mapping[str, Any]
) -> pl.DataFrame | None:
    """Read many local files in one go; None where they are not alike, or one cannot be read.

    One by one, thousands of small files take minutes.
    """
    import polars as pl

    if len(files) < _MANY_FILES or not isinstance(folder, LocalFolder):
        return None
    paths = [folder.readable(file.location) for file in files]
    try:
        rows = pl.scan_parquet(paths, hive_partitioning=False, glob=False)
        found = rows.select(list(wanted)).collect()
    except (pl.exceptions.PolarsError, OSError):
        return None
    return found.cast({name: kind for name, kind in wanted.items() if found.schema[name] != kind})


def read_file(
    folder: Storage,
    file: ActiveFile,
    wanted: Mapping[str, Any],
    *,
    start: int = 0,
    num_rows: int | None = None,
) -> pl.DataFrame:
    """Read columns of one file; one that was added to the table later is null.

    With `num_rows`, only so many rows from row `start` on are read. A table written by another program may keep partition columns out of its files: their
    values come from the log.
    """
    import polars as pl

    source: Any
    if isinstance(folder, LocalFolder):
        source = folder.readable(file.location)
    else:
        content = folder.read(file.location)
        source = None if content is None else io.BytesIO(content)
    try:
        if source is None:
            raise FileNotFoundError
        try:
            if num_rows is None:
                frame = pl.read_parquet(source, columns=list(wanted), hive_partitioning=False)
            else:
                rows = pl.scan_parquet(source, hive_partitioning=False).select(list(wanted))
                frame = rows.slice(start, num_rows).collect()
        except pl.exceptions.ColumnNotFoundError:
            frame = _read_part(source, file, wanted).slice(start, num_rows)
    except FileNotFoundError as error:
        raise HeliostatError(
            f"{folder.readable(file.location)}: a file of this version is gone"
        ) from error
    except pl.exceptions.ComputeError as error:
        raise HeliostatError(
            f"{folder.readable(file.location)}: is no whole Parquet file; {error}"
        ) from error
    return frame.cast({name: kind for name, kind in wanted.items() if frame.schema[name] != kind})


def _read_part(source: Any, file: ActiveFile, wanted: Mapping[str, Any]) -> pl.DataFrame:
    import polars as pl

    if isinstance(source, io.BytesIO):
        source.seek(0)
    found = pl.read_parquet(source, hive_partitioning=False)
    known = dict(file.partition)
    return found.select(
        pl.col(name) if name in found.columns else _literal(known.get(name), kind).alias(name)
        for name, kind in wanted.items()
    )


def _literal(text: str | None, kind: Any) -> pl.Expr:
    import polars as pl

    if text is None:
        return pl.lit(None, dtype=kind)
    if kind == pl.Boolean:
        return pl.lit(text == "true")
    if kind == pl.Date:
        return pl.lit(text).str.to_date("%Y-%m-%d")
    return pl.lit(text).cast(kind)
