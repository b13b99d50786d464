"""What a vendor's own client reads, as a source: it answers in Arrow, and ingest checks and counts."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from heliostat.config import require
from heliostat.data import typed_rows
from heliostat.data.read_once import ReadOnce
from heliostat.data.rows import Member
from heliostat.data.typed_rows import TypedRows
from heliostat.errors import HeliostatError, Unavailable

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

    Answer = Iterable[pa.Table | pa.RecordBatch]


@dataclass(frozen=True, kw_only=True)
class ArrowReader(ReadOnce):
    """Rows that a function yields as Arrow tables or batches, as most warehouses' clients give them.

    It is called twice: for the columns, and for the rows, in one task. Where it finds its
    credentials is its own matter; they do not belong into `arguments`, which are part of the recipe.
    """

    read: Callable[..., Answer]
    """A function of a module: tasks import it. It may raise `ConfigError` and `Unavailable`; of
    other errors only the kind is shown, since a client's words may hold a password."""

    name: str
    """What errors, the quarantine and lineage call it, as ``snowflake:sales``."""

    arguments: Mapping[str, str] = field(default_factory=dict)
    """Given to `read` by name, such as the query."""

    chunk_rows: int = 50_000
    """Rows that one task checks."""

    def __post_init__(self) -> None:
        require(bool(self.name), "source.name", self.name, "must be named")
        require(self.chunk_rows > 0, "source.chunk_rows", self.chunk_rows, "must be above 0")

    def plan(self) -> list[Member]:
        """Ask for the first rows, to know the columns.

        Raises:
            Unavailable: The client could not read.
        """
        with closing(self._frames()) as frames:
            first = next(frames, None)
        header = None if first is None else tuple(first.columns)
        return [Member(path=self.name, header=header, size_bytes=0, first_line=1)]

    def read_chunks(self, member: Member, first: int) -> Iterator[tuple[int, bytes]]:  # noqa: ARG002
        """Yield the answer in chunks; memory holds what the client yields at once."""
        number = first
        for frame in self._frames():
            for part in frame.iter_slices(self.chunk_rows):
                yield number, typed_rows.encode(part)
                number += 1

    def parse(self, raw: bytes, member: Member) -> TypedRows:  # noqa: ARG002 - says its columns
        """Take a chunk apart."""
        return typed_rows.decode(raw)

    def _frames(self) -> Generator[pl.DataFrame, None, None]:
        import polars as pl
        import pyarrow as pa

        answers = self._client(lambda: iter(self.read(**self.arguments)))
        while (answer := self._client(lambda: next(answers, None))) is not None:
            table = answer if isinstance(answer, pa.Table) else pa.Table.from_batches([answer])
            frame = pl.from_arrow(table)
            assert isinstance(frame, pl.DataFrame)
            yield frame

    def _client(self, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except HeliostatError:
            raise
        except Exception as error:  # noqa: BLE001 - a client may raise anything
            raise Unavailable(
                self.name, f"its client failed with {type(error).__name__}",
                next_step="Call the function by hand to see the client's own words",
            ) from None  # fmt: skip
