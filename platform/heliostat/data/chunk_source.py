"""Ray Data's side of a `Source`; imports Ray, so only functions that run Ray import it."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from functools import partial

import pyarrow as pa
from ray.data import Dataset, read_datasource
from ray.data.block import BlockMetadata
from ray.data.context import DataContext
from ray.data.datasource import Datasource, ReadTask

from heliostat.data import blocks
from heliostat.data.rows import Member, Source
from heliostat.errors import HeliostatError

SCHEMA = pa.schema(
    [
        ("file", pa.int64()),
        ("number", pa.int64()),
        ("raw", pa.large_binary()),
        ("failed", pa.binary()),
    ]
)
"""One row per chunk: the file's place in the plan, the chunk's number in it, and its lines; or
the error that ended the reading."""


def dataset(source: Source, members: Sequence[Member]) -> Dataset:
    """Open members whose readers have many chunks, as one row per chunk; nothing is read yet."""
    opened: Dataset = read_datasource(
        _ChunkDatasource(source, members),
        # With the same resources Ray Data would fuse the reader with the work on its chunks into
        # one task, and only one core would work.
        num_cpus=0.25,
    )
    return opened


class _ChunkDatasource(Datasource):
    def __init__(self, source: Source, members: Sequence[Member]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._source = source
        self._members = tuple(members)

    def get_name(self) -> str:
        return type(self._source).__name__

    def estimate_inmemory_data_size(self) -> int:
        return sum(member.size_bytes for member in self._members)

    def get_read_tasks(
        self,
        parallelism: int,  # noqa: ARG002 - chunks have a fixed size, so that numbers stay
        per_task_row_limit: int | None = None,  # noqa: ARG002 - chunks are no rows
        data_context: DataContext | None = None,  # noqa: ARG002
    ) -> list[ReadTask]:
        return [
            ReadTask(
                partial(_read, self._source, member, file, first),
                BlockMetadata(
                    num_rows=None, size_bytes=None, input_files=(member.label,), exec_stats=None
                ),
                schema=SCHEMA,
            )
            for file, member in enumerate(self._members)
            for first in self._source.readers(member)
        ]


def _read(source: Source, member: Member, file: int, first: int) -> Iterator[pa.Table]:
    try:
        for number, raw in source.read_chunks(member, first):
            yield _row(file, number, raw, None)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        yield _row(file, first, None, pickle.dumps(blocks.unreadable(member, error)))
    except HeliostatError as error:
        yield _row(file, first, None, pickle.dumps(error))


def _row(file: int, number: int, raw: bytes | None, failed: bytes | None) -> pa.Table:
    values = ([file], [number], [raw], [failed])
    return pa.Table.from_arrays(
        [pa.array(value, field.type) for value, field in zip(values, SCHEMA, strict=True)],
        schema=SCHEMA,
    )
