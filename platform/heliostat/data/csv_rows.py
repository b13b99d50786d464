"""Split a chunk of CSV lines into fields, so that each line ends as a row or as a reason."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from heliostat.data.rows import LINE, Malformed
from heliostat.errors import HeliostatError


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """The lines of one chunk, a `rows.Rows`."""

    raw: bytes
    starts: NDArray[np.int64]
    """Where each line begins in `raw`, shape (L,)."""
    ends: NDArray[np.int64]
    """Where its text ends, line end excluded."""
    rows: pl.DataFrame
    """One text column per header name and `LINE`; null where the value is missing."""
    malformed: tuple[Malformed, ...]
    num_rows: int
    """Lines that are not empty; an empty line holds no data and is no row."""
    num_lines: int
    """All lines, for numbering the next chunk."""

    def number(self, line: int) -> int:
        """Say on which line of the chunk a row begins: rows may span several."""
        if self.num_lines == len(self.starts):
            return line
        return self.raw.count(b"\n", 0, int(self.starts[line]))

    def text(self, line: int) -> str:
        """Give the raw line; bytes that are no UTF-8 are shown as hexadecimal escapes."""
        raw = self.raw[self.starts[line] : self.ends[line]]
        return raw.decode("utf-8", errors="backslashreplace")


def record_ends(data: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Where records end if quoted fields may hold line ends: after an even number of quotes.

    Args:
        data: Bytes that begin with a record, shape (N,).

    Returns:
        Places of the line ends that end a record, ascending.
    """
    ends = np.flatnonzero(data == 0x0A)
    quotes = np.flatnonzero(data == 0x22)
    closed: NDArray[np.int64] = ends[np.searchsorted(quotes, ends) % 2 == 0]
    return closed


def parse(
    raw: bytes,
    header: Sequence[str],
    delimiter: str,
    missing: Sequence[str],
    *,
    multiline: bool = False,
) -> Chunk:
    """Split whole lines into text fields; nothing is raised for bad lines.

    A line is malformed if its number of fields is not the header's, a quote is not closed
    or is followed by text, or it is not UTF-8.
    """
    data = np.frombuffer(raw, dtype=np.uint8)
    lines = np.flatnonzero(data == 0x0A)
    regular = _read_regular(raw, data, lines, header, delimiter, missing)
    if regular is not None:
        return regular
    ends = record_ends(data) if multiline else lines
    num_lines = len(lines) + (len(raw) > 0 and raw[-1] != 0x0A)
    # With an unclosed quote, a line end at the very end ends nothing.
    if len(raw) and (not len(ends) or ends[-1] != len(raw) - 1):
        ends = np.append(ends, len(raw))
    starts = np.concatenate(([0], ends[:-1] + 1)) if len(ends) else ends
    stripped = ends - ((data[np.maximum(ends - 1, 0)] == 0x0D) & (ends > starts))
    filled = stripped > starts

    fields = _count_per_line(data, ord(delimiter), starts, ends) + 1
    broken_text = _not_utf8(raw, data, starts, ends)
    special = _count_per_line(data, ord('"'), starts, ends) > 0
    special |= _count_per_line(data, 0x0D, starts, stripped) > 0
    plain = filled & ~special & ~broken_text & (fields == len(header))

    malformed = [
        Malformed(line=int(line), kind="line: must be UTF-8", reason="line: must be UTF-8")
        for line in np.flatnonzero(filled & broken_text)
    ]
    malformed += [
        _wrong_number(int(line), int(fields[line]), header)
        for line in np.flatnonzero(filled & ~special & ~broken_text & ~plain)
    ]
    rows = _read_plain(data, raw, plain, starts, header, delimiter, missing)
    quoted = np.flatnonzero(filled & special & ~broken_text)
    if len(quoted):
        frame, refused = _read_quoted(raw, quoted, starts, stripped, header, delimiter, missing)
        rows = pl.concat([rows, frame]).sort(LINE)
        malformed += refused
    return Chunk(
        raw=raw,
        starts=starts,
        ends=stripped,
        rows=rows,
        malformed=tuple(malformed),
        num_rows=int(filled.sum()),
        num_lines=int(num_lines),
    )


def _read_regular(
    raw: bytes,
    data: NDArray[np.uint8],
    lines: NDArray[np.int64],
    header: Sequence[str],
    delimiter: str,
    missing: Sequence[str],
) -> Chunk | None:
    """Read a chunk whose every line is plain and has all fields; None if one might not.

    Nothing is looked up line by line: the delimiters of the chunk are as many as its lines need
    together, and Polars refuses a line with too many, so no line can have too few.
    """
    num_lines = len(lines) + (len(raw) > 0 and raw[-1] != 0x0A)
    delimiters = int(np.count_nonzero(data == ord(delimiter)))
    if (
        len(header) < 2
        or delimiters != num_lines * (len(header) - 1)
        or b'"' in raw
        or b"\r" in raw
        or not (raw.isascii() or _is_utf8(raw))
    ):
        return None
    try:
        rows = _read_lines(raw, header, delimiter, missing)
    except pl.exceptions.PolarsError:
        return None
    if rows.shape != (num_lines, len(header)):
        return None
    ends = lines if num_lines == len(lines) else np.append(lines, len(raw))
    return Chunk(
        raw=raw,
        starts=np.concatenate((np.zeros(1, dtype=np.int64), ends[:-1] + 1)),
        ends=ends,
        rows=rows.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(LINE)),
        malformed=(),
        num_rows=num_lines,
        num_lines=num_lines,
    )


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _read_lines(
    raw: bytes, header: Sequence[str], delimiter: str, missing: Sequence[str]
) -> pl.DataFrame:
    return pl.read_csv(
        raw,
        has_header=False,
        schema=dict.fromkeys(header, pl.String()),
        quote_char=None,
        separator=delimiter,
        null_values=[text for text in missing if text],
        empty_string_is_null="" in missing,
    )


def _count_per_line(
    data: NDArray[np.uint8], byte: int, starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.int64]:
    found = np.flatnonzero(data == byte)
    if not len(found):
        return np.zeros(len(starts), dtype=np.int64)
    return np.searchsorted(found, ends) - np.searchsorted(found, starts)


def _not_utf8(
    raw: bytes, data: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]
) -> NDArray[np.bool_]:
    broken = np.zeros(len(starts), dtype=np.bool_)
    if not _is_utf8(raw):
        for line in np.unique(np.searchsorted(ends, np.flatnonzero(data >= 0x80))):
            broken[line] = not _is_utf8(raw[starts[line] : ends[line]])
    return broken


def _wrong_number(line: int, found: int, header: Sequence[str]) -> Malformed:
    rule = f"must have {len(header)} fields, as the header"
    return Malformed(line=line, kind=f"line: {rule}", reason=f"line = {found} fields: {rule}")


def _read_plain(
    data: NDArray[np.uint8],
    raw: bytes,
    plain: NDArray[np.bool_],
    starts: NDArray[np.int64],
    header: Sequence[str],
    delimiter: str,
    missing: Sequence[str],
) -> pl.DataFrame:
    """Read lines without quotes, all of the right number of fields, at Polars's speed."""
    lines = np.flatnonzero(plain)
    if not len(lines):
        return pl.DataFrame(schema=_schema(header))
    if len(lines) < len(plain):
        spans = np.diff(np.append(starts, len(data)))
        raw = data[np.repeat(plain, spans)].tobytes()
    frame = _read_lines(raw, header, delimiter, missing)
    if frame.height != len(lines) or frame.width != len(header):
        raise HeliostatError(
            f"csv: {len(lines)} lines became {frame.height} rows of {frame.width} fields"
        )
    return frame.with_columns(pl.Series(LINE, lines, dtype=pl.Int64))


def _read_quoted(
    raw: bytes,
    lines: NDArray[np.int64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    header: Sequence[str],
    delimiter: str,
    missing: Sequence[str],
) -> tuple[pl.DataFrame, list[Malformed]]:
    absent = frozenset(missing)
    rows: list[list[Any]] = []
    refused: list[Malformed] = []
    for line in lines.tolist():
        text = raw[starts[line] : ends[line]].decode("utf-8")
        try:
            fields = next(csv.reader([text], delimiter=delimiter, strict=True))
        except csv.Error as error:
            kind = "line: must be well quoted"
            refused.append(Malformed(line=line, kind=kind, reason=f"{kind}; {error}"))
            continue
        if len(fields) != len(header):
            refused.append(_wrong_number(line, len(fields), header))
        else:
            rows.append([None if field in absent else field for field in fields] + [line])
    return pl.DataFrame(rows, schema=_schema(header), orient="row"), refused


def _schema(header: Sequence[str]) -> dict[str, pl.DataType]:
    return {**dict.fromkeys(header, pl.String()), LINE: pl.Int64()}
