"""Chunks of rows that a source has typed already, and JSON lines, whose values say their types."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import polars as pl

from heliostat.data.rows import LINE, Malformed


@dataclass(frozen=True, kw_only=True, slots=True)
class TypedRows:
    """A chunk that came as a frame, a `rows.Rows`; quarantine shows its rows as JSON."""

    rows: pl.DataFrame

    malformed: tuple[Malformed, ...] = ()

    whole: pl.DataFrame | None = None
    """All rows, the malformed ones too; None where none is."""

    @property
    def num_rows(self) -> int:
        """Rows of the chunk."""
        return self.rows.height + len(self.malformed)

    @property
    def num_lines(self) -> int:
        """The same: a row is a line."""
        return self.num_rows

    def number(self, line: int) -> int:
        """The same: a row is a line."""
        return line

    def text(self, line: int) -> str:
        """Give the row as JSON."""
        rows = self.rows if self.whole is None else self.whole
        row = rows.drop(LINE).row(line, named=True)
        return msgspec.json.encode(row, enc_hook=str).decode()


@dataclass(frozen=True, kw_only=True, slots=True)
class JsonRows:
    """A chunk of JSON lines, a `rows.Rows`."""

    lines: tuple[bytes, ...]
    rows: pl.DataFrame
    malformed: tuple[Malformed, ...]
    num_rows: int

    @property
    def num_lines(self) -> int:
        """All lines, empty ones too."""
        return len(self.lines)

    def number(self, line: int) -> int:
        """The same: a row is a line."""
        return line

    def text(self, line: int) -> str:
        """Give the raw line; bytes that are no UTF-8 are shown as hexadecimal escapes."""
        return self.lines[line].decode("utf-8", errors="backslashreplace")


def encode(frame: pl.DataFrame) -> bytes:
    """Pack a frame as a chunk that `decode` takes apart."""
    buffer = io.BytesIO()
    frame.write_ipc(buffer)
    return buffer.getvalue()


def decode(raw: bytes) -> TypedRows:
    """Take a packed frame apart; nested values become JSON text."""
    frame = pl.read_ipc(io.BytesIO(raw))
    nested = [name for name, kind in frame.schema.items() if kind.is_nested()]
    frame = frame.with_columns(
        pl.Series(name, [None if v is None else _json(v) for v in frame[name].to_list()], pl.String)
        for name in nested
    )
    return TypedRows(rows=frame.with_columns(pl.int_range(pl.len()).alias(LINE)))


def parse_json(raw: bytes, columns: Sequence[str]) -> JsonRows:
    r"""Take JSON lines apart; each must be one object, and a line that is none is malformed.

    Args:
        raw: Whole lines.
        columns: Columns that every chunk has; more come from the objects themselves.

    >>> found = parse_json(b'{"a": 1}\n[1]\n\n{"a": "x"}\n', ["a"])
    >>> found.rows["a"].to_list(), [item.line for item in found.malformed], found.num_rows
    (['1', 'x'], [1], 3)
    """
    lines = raw.split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    decoder = msgspec.json.Decoder()
    objects: list[dict[str, Any]] = []
    numbers: list[int] = []
    malformed: list[Malformed] = []
    num_rows = 0
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        num_rows += 1
        kind = "line: must be a JSON object"
        try:
            value = decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            malformed.append(Malformed(line=number, kind=kind, reason=f"{kind}; {error}"))
            continue
        if not isinstance(value, dict):
            reason = f"{kind}; it is {type(value).__name__}"
            malformed.append(Malformed(line=number, kind=kind, reason=reason))
            continue
        objects.append(value)
        numbers.append(number)
    names = dict.fromkeys((*columns, *(key for item in objects for key in item)))
    frame = pl.DataFrame(
        [_series(name, [item.get(name) for item in objects]) for name in names]
    ).with_columns(pl.Series(LINE, numbers, dtype=pl.Int64))
    return JsonRows(lines=tuple(lines), rows=frame, malformed=tuple(malformed), num_rows=num_rows)


def _series(name: str, values: list[Any]) -> pl.Series:
    """Keep one plain type; where a column mixes types, each value is its text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int} and all(value is None or -(2**63) <= value < 2**63 for value in values):
        return pl.Series(name, values, dtype=pl.Int64)
    if kinds <= {int, float} and float in kinds and not any(_big(value) for value in values):
        return pl.Series(name, values, dtype=pl.Float64, strict=False)
    if kinds == {bool}:
        return pl.Series(name, values, dtype=pl.Boolean)
    return pl.Series(name, [_text(value) for value in values], dtype=pl.String)


def _big(value: Any) -> bool:
    """An integer that a float would change."""
    return isinstance(value, int) and abs(value) > 2**53


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return _json(value)


def _json(value: Any) -> str:
    return msgspec.json.encode(value, enc_hook=str).decode()


def columns_of(lines: Iterable[bytes]) -> tuple[str, ...]:
    """Names that the objects of some lines have, in order of appearance."""
    found = parse_json(b"\n".join(lines), ())
    return tuple(name for name in found.rows.columns if name != LINE)
