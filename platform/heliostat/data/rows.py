"""The small interface between where rows come from and the ingest that accounts for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import polars as pl

LINE = "__line"
"""Column with the row's line, counted from 0 within the chunk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Malformed:
    """A line that is no row."""

    line: int
    kind: str
    """The rule without the values: what reports count by."""
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """One file, partition or result of a source, as the plan saw it."""

    path: str

    member: str | None = None
    """Name inside the archive; None for a plain file."""

    header: tuple[str, ...] | None
    """Its columns; None where each row names its own."""

    body_start: int = 0
    """First byte of a file, or offset of a partition, that is read."""

    size_bytes: int
    """Unpacked; for a partition the offset after the last that is read."""

    first_line: int = 2
    """Number of the first row in reports: a CSV header is line 1."""

    @property
    def label(self) -> str:
        """The member as error messages and the quarantine name it."""
        return self.path if self.member is None else f"{self.path}!{self.member}"


class Rows(Protocol):
    """One chunk taken apart; ``rows.height + len(malformed) == num_rows`` always."""

    @property
    def rows(self) -> pl.DataFrame:
        """One column per header name and `LINE`; text, or the source's own types."""

    @property
    def malformed(self) -> tuple[Malformed, ...]:
        """Lines that are no row, each with the reason."""

    @property
    def num_rows(self) -> int:
        """Rows and lines that should have been one."""

    @property
    def num_lines(self) -> int:
        """All lines, for numbering the next chunk."""

    def number(self, line: int) -> int:
        """Where a row begins, counted in lines from the chunk's first."""

    def text(self, line: int) -> str:
        """Give the raw line for quarantine."""


class Source(Protocol):
    """Where rows come from. Plain to pickle; tasks read its chunks in parallel."""

    @property
    def repeatable(self) -> bool:
        """Whether a chunk read again is the same; else ingest keeps a copy while it runs."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Local files that it reads; none for a server's rows."""

    def plan(self) -> list[Member]:
        """Look at what there is; reads no rows.

        Raises:
            ConfigError: The source cannot be what it should be.
            Unavailable: It does not answer.
        """

    def readers(self, member: Member) -> range:
        """First chunk of each reader; readers work at the same time."""

    def one_chunk_each(self, member: Member) -> bool:
        """Whether each of its readers reads one chunk; one task then reads and checks it."""

    def read_chunks(self, member: Member, first: int) -> Iterator[tuple[int, bytes]]:
        """Yield a reader's chunks with their numbers in the member."""

    def read_chunk(self, member: Member, number: int) -> bytes:
        """Read one chunk again; only where `repeatable`."""

    def parse(self, raw: bytes, member: Member) -> Rows:
        """Take a chunk apart; nothing is raised for bad rows."""

    def position(self, members: list[Member]) -> Mapping[str, int] | None:
        """Where the next read goes on, kept with the commit; None for sources read whole."""
