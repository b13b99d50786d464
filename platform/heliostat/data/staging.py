"""Parquet files that wait for their commit: named by run, part and content."""

from __future__ import annotations

import hashlib
import io
import json
import re
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from heliostat.config import require
from heliostat.data.storage import LocalFolder, Storage
from heliostat.errors import HeliostatError

if TYPE_CHECKING:
    import polars as pl

PARTITION_TYPES = ("Int64", "String", "Boolean", "Date")
"""Polars types of columns that may partition a table."""

_RUN_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")


@dataclass(frozen=True, kw_only=True, slots=True)
class StagedFile:
    """A Parquet file that lies in a table's folder and is not part of the table yet."""

    path: str
    """Relative to the table's folder."""

    num_rows: int

    size_bytes: int

    partition: tuple[tuple[str, str | None], ...] = ()
    """The value that all rows share, as Delta writes it, for each partition column."""


def require_run(run_id: str) -> None:
    """Refuse a run id that could not be part of a file's name."""
    require(
        bool(_RUN_ID.match(run_id)),
        "run_id",
        run_id,
        "must be 1 to 128 letters, digits, '_', '.' or '-', beginning with a letter or digit",
    )


def stage(storage: Storage, frame: pl.DataFrame, *, run_id: str, part: int) -> StagedFile:
    """Write one file whose name is made of run, part and content; safe to repeat."""
    require_run(run_id)
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", compression_level=1)
    content = buffer.getbuffer()
    digest = hashlib.blake2b(content, digest_size=6).hexdigest()
    path = f"part-{run_id}-{part:010d}-{digest}.parquet"
    found = storage.stat(path)
    if found is None or found.size_bytes != len(content):
        storage.write(path, content)
    return StagedFile(path=path, num_rows=frame.height, size_bytes=len(content))


def stage_partitions(
    storage: Storage, frame: pl.DataFrame, *, run_id: str, part: int, partition_by: Sequence[str]
) -> tuple[StagedFile, ...]:
    """Write one file for each combination of the partition columns' values, in sorted order.

    The columns stay in the files too, so that a file can be read on its own; the log says
    which value each file holds, and paths say nothing.
    """
    if not partition_by:
        return (stage(storage, frame, run_id=run_id, part=part),) if frame.height else ()
    for name in partition_by:
        kind = str(frame.schema[name])
        require(
            kind in PARTITION_TYPES, f"partition column {name}", kind,
            f"must be one of {PARTITION_TYPES}",
        )  # fmt: skip
    found = []
    groups = frame.partition_by(list(partition_by), as_dict=True, maintain_order=True)
    for values, rows in groups.items():
        written = stage(storage, rows, run_id=run_id, part=part)
        partition = tuple(
            (name, partition_text(value)) for name, value in zip(partition_by, values, strict=True)
        )
        found.append(
            StagedFile(
                path=written.path,
                num_rows=written.num_rows,
                size_bytes=written.size_bytes,
                partition=partition,
            )
        )
    return tuple(sorted(found, key=lambda item: item.path))


def partition_text(value: object) -> str | None:
    """Write a partition value as Delta's log does.

    >>> [partition_text(value) for value in (True, 7, date(2026, 1, 2), "x", None)]
    ['true', '7', '2026-01-02', 'x', None]
    """
    if value is None:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, date):
        return value.isoformat()
    return str(value)


def add_action(storage: Storage, file: StagedFile, *, changes_data: bool) -> Any:
    """Describe a staged file for the commit.

    Raises:
        HeliostatError: It is gone or cut; deltalake would commit it, and readers would fail.
    """
    from deltalake.transaction import AddAction

    found = storage.stat(file.path)
    if found is None or found.size_bytes != file.size_bytes:
        raise HeliostatError(
            f"{storage.readable(file.path)}: the staged file is gone or was cut; "
            "nothing is committed"
        )
    return AddAction(
        path=file.path,
        size=file.size_bytes,
        partition_values=dict(file.partition),
        modification_time=int(found.modified_s * 1000),
        data_change=changes_data,
        stats=json.dumps({"numRecords": file.num_rows}),
    )


def remove_action(file: StagedFile, *, changes_data: bool) -> Any:
    """Describe a file that the commit takes out of the table; the file itself stays."""
    from deltalake.transaction import RemoveAction

    return RemoveAction(
        path=file.path,
        data_change=changes_data,
        deletion_timestamp=int(time.time() * 1000),
        size=file.size_bytes,
        partition_values=dict(file.partition),
    )


def staged(storage: Storage, run_id: str) -> dict[int, StagedFile]:
    """Find the files that a run has staged, by part; of two contents of a part, one.

    For a run whose parts each hold the same rows whenever they are made, such as one that reads
    a fixed version: it may go on with what a killed try has left.
    """
    import polars as pl

    mine = re.compile(rf"^part-{re.escape(run_id)}-(\d{{10}})-[0-9a-f]{{12}}\.parquet$")
    found: dict[int, StagedFile] = {}
    for file in storage.list():
        match = mine.match(file.path)
        if match is None or int(match[1]) in found:
            continue
        local = isinstance(storage, LocalFolder)
        content = None if local else storage.read(file.path)
        source = storage.readable(file.path) if local else io.BytesIO(content or b"")
        rows = pl.scan_parquet(source, hive_partitioning=False).select(pl.len()).collect().item()
        found[int(match[1])] = StagedFile(path=file.path, num_rows=rows, size_bytes=file.size_bytes)
    return found


def sweep(storage: Storage, run_id: str, keep: Collection[str]) -> int:
    """Remove the files that a run staged, but those to keep; return how many are gone."""
    mine = re.compile(rf"^\.?part-{re.escape(run_id)}-\d{{10}}-[0-9a-f]{{12}}\.parquet(\.[\d-]+)?$")
    gone = [file.path for file in storage.list() if mine.match(file.path) and file.path not in keep]
    for path in gone:
        storage.delete(path)
    return len(gone)


def matches(file: StagedFile, where: Mapping[str, Sequence[object]]) -> bool:
    """Say whether a file may hold rows with one of the wanted values in each column."""
    values = dict(file.partition)
    return all(
        column not in values or values[column] in {partition_text(item) for item in wanted}
        for column, wanted in where.items()
    )
