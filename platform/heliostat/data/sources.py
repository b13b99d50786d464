"""Delimited text files as chunks of whole lines, read in parallel and numbered later."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from heliostat.config import require
from heliostat.data.csv_rows import Chunk, parse, record_ends
from heliostat.data.rows import Member
from heliostat.errors import ConfigError, nearest

MAX_LINE_BYTES = 64 * 2**20
"""A line that is longer is refused: memory holds whole lines, and so would the quarantine."""

CHUNK_BYTES = 16 * 2**20
"""Text of one task: enough that the task's own cost is small beside it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CsvFiles:
    """CSV files with a header line each, plain or inside ``.zip`` archives.

    Each physical line is one row: a quote that is not closed on its line breaks that row only,
    and a file is read in parallel. With `multiline`, quoted fields may hold line ends.
    """

    paths: tuple[str, ...]
    """Files, read in this order; an archive's members in the order of their names."""

    missing: tuple[str, ...] = ("", "NA")
    """Texts that stand for a missing value, in every column."""

    delimiter: str = ","

    chunk_bytes: int = CHUNK_BYTES
    """How much text one task takes, in bytes."""

    multiline: bool = False
    """Whether quoted fields may hold line ends. Each file then has one reader, and a quote that is
    not closed takes what follows, up to the next quote, into its row."""

    def __post_init__(self) -> None:
        require(bool(self.paths), "source.paths", self.paths, "must name at least one file")
        require(
            len(self.delimiter) == 1 and self.delimiter.isascii() and self.delimiter not in '"\r\n',
            "source.delimiter",
            self.delimiter,
            "must be one ASCII character, no quote and no line end",
        )
        require(self.chunk_bytes > 0, "source.chunk_bytes", self.chunk_bytes, "must be above 0")

    @property
    def repeatable(self) -> bool:
        """Files stay as they are while they are read."""
        return True

    def position(self, members: list[Member]) -> None:  # noqa: ARG002 - files are read whole
        """Nothing: files are read whole."""
        return

    def parse(self, raw: bytes, member: Member) -> Chunk:
        """Split whole lines into text fields."""
        return parse(
            raw, member.header or (), self.delimiter, self.missing, multiline=self.multiline
        )

    def plan(self) -> list[Member]:
        """Look at every file's header; reads no rows.

        Raises:
            ConfigError: A file is missing, no archive, or has no header in UTF-8.
        """
        return [member for path in self.paths for member in self._members(path)]

    def readers(self, member: Member) -> range:
        """First chunk of each reader: a plain file has one per chunk, an archive member one."""
        if not self.one_chunk_each(member):
            return range(1)
        return range(max(1, -(-(member.size_bytes - member.body_start) // self.chunk_bytes)))

    def one_chunk_each(self, member: Member) -> bool:
        """So it is with plain files whose lines are rows."""
        return member.member is None and not self.multiline

    def read_chunks(self, member: Member, first: int) -> Iterator[tuple[int, bytes]]:
        """Yield a reader's chunks, each of whole lines, with their numbers in the file."""
        if self.multiline:
            with self._opened(member) as file:
                file.read(member.body_start)
                yield from _records(file, self.chunk_bytes)
            return
        if member.member is None:
            with Path(member.path).open("rb") as file:
                start = member.body_start + first * self.chunk_bytes
                yield first, lines_beginning_in(file, start, start + self.chunk_bytes, first == 0)
            return
        with zipfile.ZipFile(member.path) as archive, archive.open(member.member) as file:
            file.read(member.body_start)
            number = 0
            while chunk := file.read(self.chunk_bytes):
                yield number, chunk if chunk.endswith(b"\n") else chunk + rest_of_line(file)
                number += 1

    def read_chunk(self, member: Member, number: int) -> bytes:
        """Read one chunk again, the same bytes as before."""
        first = max(start for start in self.readers(member) if start <= number)
        return next(raw for found, raw in self.read_chunks(member, first) if found == number)

    @contextmanager
    def _opened(self, member: Member) -> Iterator[IO[bytes]]:
        if member.member is None:
            with Path(member.path).open("rb") as file:
                yield file
            return
        with zipfile.ZipFile(member.path) as archive, archive.open(member.member) as unpacked:
            yield unpacked

    def _members(self, path: str) -> list[Member]:
        try:
            if not path.endswith(".zip"):
                with Path(path).open("rb") as file:
                    return [self._member(file, path, None, Path(path).stat().st_size)]
            with zipfile.ZipFile(path) as archive:
                infos = sorted(
                    (
                        info
                        for info in archive.infolist()
                        if not info.is_dir() and not info.filename.startswith("__MACOSX/")
                    ),
                    key=lambda info: info.filename,
                )
                require(bool(infos), "source.paths", path, "must hold a file")
                members = []
                for info in infos:
                    with archive.open(info) as file:
                        members.append(self._member(file, path, info.filename, info.file_size))
                return members
        except OSError as error:
            raise ConfigError(
                "source.paths", path, "must be a readable file", breaks=error.strerror
            ) from error
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise ConfigError(
                "source.paths", path, "must be a readable zip archive", breaks=str(error)
            ) from error

    def _member(self, file: IO[bytes], path: str, member: str | None, size_bytes: int) -> Member:
        line = file.readline(MAX_LINE_BYTES)
        label = path if member is None else f"{path}!{member}"
        try:
            text = line.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{label}: header", line[:80], "must be UTF-8") from error
        require(bool(text), f"{label}: header", text, "must name the columns")
        try:
            header = tuple(next(csv.reader([text], delimiter=self.delimiter, strict=True)))
        except csv.Error as error:
            raise ConfigError(
                f"{label}: header", text[:80], "must be one line of names", breaks=str(error)
            ) from error
        twice = sorted({name for name in header if header.count(name) > 1})
        require(not twice, f"{label}: header", tuple(twice), "must each be there once")
        return Member(
            path=path, member=member, header=header, body_start=len(line), size_bytes=size_bytes
        )


def require_columns(member: Member, wanted: Sequence[str]) -> tuple[str, ...]:
    """Check that the file has every wanted column and return those that nobody wants.

    Raises:
        ConfigError: Names the file, the column and the nearest header.
    """
    if member.header is None:
        return ()
    for name in wanted:
        unclaimed = [item for item in member.header if item not in wanted]
        require(
            name in member.header, f"{member.label}: column", name, "must be in the header",
            breaks=nearest(name, unclaimed or member.header),
        )  # fmt: skip
    return tuple(name for name in member.header if name not in wanted)


def _records(file: IO[bytes], chunk_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield chunks of whole records; the last one may end without its quote closed."""
    number = 0
    rest = b""
    while block := file.read(chunk_bytes):
        rest += block
        ends = record_ends(np.frombuffer(rest, dtype=np.uint8))
        if len(ends):
            cut = int(ends[-1]) + 1
            yield number, rest[:cut]
            number, rest = number + 1, rest[cut:]
        elif len(rest) > MAX_LINE_BYTES:
            raise ConfigError(
                f"{getattr(file, 'name', 'file')}: record", rest[:40],
                f"must be at most {MAX_LINE_BYTES // 2**20} MiB long",
                breaks="a quote may not be closed",
            )  # fmt: skip
    if rest:
        yield number, rest


def lines_beginning_in(file: IO[bytes], start: int, end: int, after_header: bool) -> bytes:
    """Read the lines that begin in a range of bytes, the last one to its end.

    Args:
        file: Open file.
        start: First byte of the range.
        end: The byte after it.
        after_header: Whether a line begins at `start` for certain.
    """
    if after_header:
        file.seek(start)
        data = file.read(end - start)
    else:
        # The byte before tells whether a line begins exactly at `start`.
        file.seek(start - 1)
        data = file.read(end - start + 1)
        newline = data.find(b"\n")
        if newline < 0 or newline + 1 == len(data):
            return b""
        data = data[newline + 1 :]
    return data if data.endswith(b"\n") else data + rest_of_line(file)


def rest_of_line(file: IO[bytes]) -> bytes:
    """Read to the end of the line.

    Raises:
        ConfigError: It is longer than `MAX_LINE_BYTES`.
    """
    rest = file.readline(MAX_LINE_BYTES + 1)
    if len(rest) > MAX_LINE_BYTES:
        raise ConfigError(
            f"{getattr(file, 'name', 'file')}: line", rest[:40],
            f"must be at most {MAX_LINE_BYTES // 2**20} MiB long",
            breaks=f"none ends within that many bytes before byte {file.tell()}",
        )  # fmt: skip
    return rest
