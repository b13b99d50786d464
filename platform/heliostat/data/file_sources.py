"""JSON lines and Parquet files as sources, read in parallel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from heliostat.config import require
from heliostat.data import typed_rows
from heliostat.data.rows import Member
from heliostat.data.sources import CHUNK_BYTES, lines_beginning_in
from heliostat.data.typed_rows import JsonRows, TypedRows
from heliostat.errors import ConfigError

_LOOKED_AT = 100
"""Lines of a JSON file whose names are taken for its columns."""


class _Files:
    @property
    def repeatable(self) -> bool:
        """Files stay as they are while they are read."""
        return True

    def one_chunk_each(self, member: Member) -> bool:  # noqa: ARG002 - all files are alike
        """Each reader has one."""
        return True

    def position(self, members: list[Member]) -> None:  # noqa: ARG002 - files are read whole
        """Nothing: files are read whole."""
        return


@dataclass(frozen=True, kw_only=True)
class JsonFiles(_Files):
    """Files with one JSON object per line."""

    paths: tuple[str, ...]
    """Files, read in this order."""

    chunk_bytes: int = CHUNK_BYTES
    """How much text one task takes, in bytes."""

    def __post_init__(self) -> None:
        require(bool(self.paths), "source.paths", self.paths, "must name at least one file")
        require(self.chunk_bytes > 0, "source.chunk_bytes", self.chunk_bytes, "must be above 0")

    def plan(self) -> list[Member]:
        """Look at every file's first lines.

        Raises:
            ConfigError: A file cannot be read.
        """
        return [self._member(path) for path in self.paths]

    def readers(self, member: Member) -> range:
        """One reader per chunk."""
        return range(max(1, -(-member.size_bytes // self.chunk_bytes)))

    def read_chunks(self, member: Member, first: int) -> Iterator[tuple[int, bytes]]:
        """Yield the reader's chunk, of whole lines."""
        with Path(member.path).open("rb") as file:
            start = first * self.chunk_bytes
            yield first, lines_beginning_in(file, start, start + self.chunk_bytes, first == 0)

    def read_chunk(self, member: Member, number: int) -> bytes:
        """Read one chunk again, the same bytes as before."""
        return next(raw for _, raw in self.read_chunks(member, number))

    def parse(self, raw: bytes, member: Member) -> JsonRows:
        """Take lines apart."""
        return typed_rows.parse_json(raw, member.header or ())

    def _member(self, path: str) -> Member:
        try:
            with Path(path).open("rb") as file:
                lines = [line for _, line in zip(range(_LOOKED_AT), file, strict=False)]
            size_bytes = Path(path).stat().st_size
        except OSError as error:
            raise ConfigError(
                "source.paths", path, "must be a readable file", breaks=error.strerror
            ) from error
        header = typed_rows.columns_of(lines)
        return Member(path=path, header=header, size_bytes=size_bytes, first_line=1)


@dataclass(frozen=True, kw_only=True)
class ParquetFiles(_Files):
    """Parquet files; each row group is a chunk."""

    paths: tuple[str, ...]
    """Files, read in this order."""

    def __post_init__(self) -> None:
        require(bool(self.paths), "source.paths", self.paths, "must name at least one file")

    def plan(self) -> list[Member]:
        """Look at every file's footer.

        Raises:
            ConfigError: A file cannot be read, or is cut.
        """
        members = []
        for path in self.paths:
            with _opened(path) as file:
                members.append(
                    Member(
                        path=path,
                        header=tuple(file.schema_arrow.names),
                        size_bytes=file.metadata.num_row_groups,
                        first_line=1,
                    )
                )
        return members

    def readers(self, member: Member) -> range:
        """One reader per row group."""
        return range(max(1, member.size_bytes))

    def read_chunks(self, member: Member, first: int) -> Iterator[tuple[int, bytes]]:
        """Yield the reader's row group.

        Raises:
            ConfigError: It is cut.
        """
        with _opened(member.path) as file:
            try:
                groups = range(first, min(first + 1, file.metadata.num_row_groups))
                table = file.read_row_groups(list(groups))
            except (pa.ArrowException, OSError) as error:
                raise _broken(member.path, error) from error
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        yield first, typed_rows.encode(frame)

    def read_chunk(self, member: Member, number: int) -> bytes:
        """Read one row group again."""
        return next(raw for _, raw in self.read_chunks(member, number))

    def parse(self, raw: bytes, member: Member) -> TypedRows:  # noqa: ARG002 - says its columns
        """Take a row group apart."""
        return typed_rows.decode(raw)


def _opened(path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise ConfigError(
            "source.paths", path, "must be a readable file", breaks="No such file or directory"
        ) from error
    except (pa.ArrowException, OSError) as error:
        raise _broken(path, error) from error


def _broken(path: str, error: Exception) -> ConfigError:
    return ConfigError(
        "source.paths", path, "must be a whole Parquet file",
        breaks=str(error).splitlines()[0][:200],
    )  # fmt: skip
