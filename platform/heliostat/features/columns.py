"""Pure: a view's rows as the bytes of both layouts, column by column.

A hundred thousand rows are a million values: what is done once for a column, not once for a
value, decides how fast they are brought to a server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from heliostat.config import require
from heliostat.features import wire
from heliostat.features.definitions import EVENT_TIMESTAMP, FeatureView
from heliostat.features.packed import PackedView

if TYPE_CHECKING:
    import polars as pl

ROWS = 1_600
"""Rows that are encoded at a time."""

_VARINT_BYTES = 10
_SHIFTS = np.arange(0, 7 * _VARINT_BYTES, 7, dtype=np.uint64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """What is written for some entities, one item of each list for each."""

    entities: list[bytes]
    """Feast's entity keys."""

    packed: list[bytes]
    """Records; see `heliostat.features.packed`."""

    messages: tuple[list[bytes], ...]
    """Feast's values: a list for each feature of the view."""

    times: list[bytes]
    """Feast's event times."""


def stored(project: str, view: FeatureView, rows: pl.DataFrame) -> Iterator[Stored]:
    """Encode rows without null keys, one per entity, for both layouts, some at a time.

    Raises:
        ConfigError: A key or a feature is not of the type that the view declares.
    """
    codec, encode_key = PackedView.of(project, view).codec(), wire.key_encoder(view.keys)
    for part in rows.iter_slices(ROWS):
        events_us = part[EVENT_TIMESTAMP].dt.epoch("us").to_numpy()
        columns = [_declared(view, part[item.name], item.dtype) for item in view.features]
        yield Stored(
            entities=[encode_key(key) for key in part.select(view.keys).iter_rows()],
            packed=codec.encode_many(events_us, columns),
            messages=tuple(
                _MESSAGES[item.dtype](column)
                for item, column in zip(view.features, columns, strict=True)
            ),
            times=feast_times(events_us),
        )


def feast_times(events_us: np.ndarray[Any, Any]) -> list[bytes]:
    """Protocol buffer Timestamps of whole and broken seconds.

    >>> [time.hex() for time in feast_times(np.array([1_500_000, 0, -1]))]
    ['08011080cab5ee01', '', '08ffffffffffffffffff0110988cebdc03']
    """
    seconds, micros = np.divmod(events_us, 1_000_000)
    whole = _tagged(0x08, seconds, leave_out=seconds == 0)
    broken = _tagged(0x10, micros * 1000, leave_out=micros == 0)
    return [first + second for first, second in zip(whole, broken, strict=True)]


def _declared(view: FeatureView, column: pl.Series, dtype: str) -> pl.Series:
    """The column in the type that its feature has; whole numbers are floats too."""
    import polars as pl

    given = column.dtype
    text = given in (pl.String, pl.Categorical, pl.Enum)
    fits = {
        "float64": given.is_numeric() or given == pl.Boolean,
        "int64": given.is_integer() or given == pl.Boolean,
        "string": text,
    }[dtype]
    require(
        fits or given == pl.Null, f"view {view.name}.{column.name}", str(given), f"must be {dtype}"
    )
    return column.cast({"float64": pl.Float64, "int64": pl.Int64, "string": pl.String}[dtype])


def _doubles(column: pl.Series) -> list[bytes]:
    message = np.empty((len(column), 9), np.uint8)
    message[:, 0] = 0x29
    values = np.ascontiguousarray(column.fill_null(0.0).to_numpy(), dtype="<f8")
    message[:, 1:] = values.view(np.uint8).reshape(-1, 8)
    found: list[bytes] = message.view("V9").ravel().tolist()
    for row in np.flatnonzero(column.is_null().to_numpy()).tolist():
        found[row] = b""
    return found


def _whole(column: pl.Series) -> list[bytes]:
    return _tagged(0x20, column.fill_null(0).to_numpy(), leave_out=column.is_null().to_numpy())


def _texts(column: pl.Series) -> list[bytes]:
    return [wire.encode_string(value) for value in column.to_list()]


_MESSAGES: dict[str, Callable[[Any], list[bytes]]] = {
    "float64": _doubles,
    "int64": _whole,
    "string": _texts,
}


def _tagged(
    tag: int, numbers: np.ndarray[Any, Any], *, leave_out: np.ndarray[Any, Any]
) -> list[bytes]:
    """A protocol buffer's field of each whole number; empty where it is left out."""
    values = np.ascontiguousarray(numbers, dtype="<i8").view("<u8")
    groups = ((values[:, None] >> _SHIFTS) & np.uint64(0x7F)).astype(np.uint8)
    # Up to the last group that is not zero; a zero has one.
    sizes = _VARINT_BYTES - np.argmax(groups[:, ::-1] != 0, axis=1)
    sizes[values == 0] = 1
    groups[np.arange(_VARINT_BYTES) < sizes[:, None] - 1] |= 0x80
    fields = np.full((len(values), 1 + _VARINT_BYTES), tag, np.uint8)
    fields[:, 1:] = groups
    data, width = fields.tobytes(), fields.shape[1]
    ends = np.where(leave_out, 0, 1 + sizes)
    ends += np.arange(len(values)) * width
    return [
        data[start:end]
        for start, end in zip(range(0, len(data), width), ends.tolist(), strict=True)
    ]
