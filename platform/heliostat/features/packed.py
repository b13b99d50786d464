"""Pure: one entity's features of one view as one record, and Feast's hash beside it.

A record: the event time as 8 bytes whose order is that of time, a bit for each missing value
(whole groups of 8 bytes), then 8 bytes for each feature: a float, an integer, or where in the
tail the text lies. Its key names the view's content, so that two versions of a view lie side by
side and a model reads the one that it was trained on.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from heliostat.config import require
from heliostat.errors import HeliostatError
from heliostat.features import wire
from heliostat.features.definitions import FeatureView

if TYPE_CHECKING:
    import polars as pl

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_BIAS = 1 << 63
"""Added to microseconds, so that the bytes of earlier moments are smaller."""

_TIME = struct.Struct(">Q")
_SPAN = struct.Struct("<II")
_CODES = {"float64": "d", "int64": "q", "string": "Q"}

_MANY = 16
"""From so many records on they are decoded together."""


def microseconds(at: datetime) -> int:
    """Microseconds since 1970."""
    return (at - _EPOCH) // _MICROSECOND


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedView:
    """How the records of one view are named and read."""

    project: str
    name: str

    version: str
    """Digest of the view's definition."""

    keys: tuple[str, ...]
    features: tuple[str, ...]
    dtypes: tuple[str, ...]
    ttl_us: int | None

    def __post_init__(self) -> None:
        require(
            len(self.dtypes) == len(self.features), f"view {self.name}.dtypes", self.dtypes,
            "must be one for each feature",
        )  # fmt: skip
        for dtype in self.dtypes:
            require(
                dtype in _CODES, f"view {self.name}.dtypes", dtype,
                f"must be one of {', '.join(_CODES)}",
            )  # fmt: skip

    @staticmethod
    def of(project: str, view: FeatureView) -> PackedView:
        """Take it from a definition."""
        return PackedView(
            project=project,
            name=view.name,
            version=view.digest(),
            keys=view.keys,
            features=tuple(item.name for item in view.features),
            dtypes=tuple(item.dtype for item in view.features),
            ttl_us=None if view.ttl_s is None else round(view.ttl_s * 1e6),
        )

    @property
    def prefix(self) -> bytes:
        """What every key of the view begins with."""
        return f"heliostat:{self.project}:{self.name}@{self.version}:".encode()

    def key_encoder(self) -> Callable[[Sequence[str | int]], bytes]:
        """Make an encoder of an entity's record key, from key values in the view's order."""
        return wire.key_encoder(self.keys, lead=self.prefix)

    def codec(self) -> Codec:
        """Make what encodes and decodes the records."""
        return Codec(self)


class Codec:
    """Encodes and decodes records of one view."""

    def __init__(self, view: PackedView) -> None:
        self._width = len(view.features)
        self._words = -(-self._width // 64)
        codes = "".join(_CODES[dtype] for dtype in view.dtypes)
        self._struct = struct.Struct(f"<8s{self._words}Q{codes}")
        self._first = 1 + self._words
        self._texts = [index for index, dtype in enumerate(view.dtypes) if dtype == "string"]
        self._ttl_us = view.ttl_us
        fields: list[tuple[str, str]] = [("time", ">u8")]
        fields += [(f"null{word}", "<u8") for word in range(self._words)]
        fields += [
            (f"f{index}", "<f8" if dtype == "float64" else "<i8")
            for index, dtype in enumerate(view.dtypes)
        ]
        self._record = np.dtype(fields)

    def encode(self, event_us: int, values: Sequence[wire.Value]) -> bytes:
        """Make the record of an entity.

        >>> view = PackedView(project="p", name="v", version="1", keys=("id",),
        ...     features=("a", "b"), dtypes=("float64", "string"), ttl_us=None)
        >>> view.codec().decode([view.codec().encode(5, [None, "x"])], 9, None)
        [[None], ['x']]
        """
        missing = [0] * self._words
        given: list[Any] = list(values)
        for index, value in enumerate(values):
            if value is None:
                missing[index >> 6] |= 1 << (index & 63)
                given[index] = 0
        tail = b""
        start = self._struct.size
        for index in self._texts:
            if values[index] is not None:
                text = str(values[index]).encode()
                given[index] = (start + len(tail)) | len(text) << 32
                tail += text
        return self._struct.pack(_TIME.pack(event_us + _BIAS), *missing, *given) + tail

    def encode_many(
        self, events_us: np.ndarray[Any, Any], columns: Sequence[pl.Series]
    ) -> list[bytes]:
        """Make the records of entities; see `encode`.

        Args:
            events_us: One moment for each.
            columns: One for each feature, of its type; null where missing.
        """
        if self._texts:
            rows = zip(*(column.to_list() for column in columns), strict=True)
            return list(map(self.encode, events_us.tolist(), rows))
        records = np.zeros(len(events_us), self._record)
        records["time"] = events_us.astype("<i8").view("<u8") + np.uint64(_BIAS)
        for index, column in enumerate(columns):
            records[f"f{index}"] = column.fill_null(0).to_numpy()
            if column.null_count():
                missing = column.is_null().to_numpy().astype("<u8")
                records[f"null{index >> 6}"] |= missing << np.uint64(index & 63)
        found: list[bytes] = records.view(f"V{self._struct.size}").tolist()
        return found

    def decode(
        self, records: Sequence[bytes | None], at_us: int, latest_us: int | None
    ) -> list[list[wire.Value]]:
        """Read one column per feature; missing are unknown entities and what is too old.

        Args:
            records: One per row; None where there is none.
            at_us: The moment to which the age is measured.
            latest_us: Leave out later events; None leaves none out.

        Raises:
            HeliostatError: A record is not of this view.
        """
        if len(records) >= _MANY and not self._texts:
            return self._decode_many(records, at_us, latest_us)
        rows = [self._row(record, at_us, latest_us) for record in records]
        if len(rows) == 1:
            return [[value] for value in rows[0]]
        return [list(column) for column in zip(*rows, strict=True)]

    def _row(self, record: bytes | None, at_us: int, latest_us: int | None) -> Sequence[wire.Value]:
        if record is None:
            return (None,) * self._width
        try:
            unpacked = self._struct.unpack_from(record)
        except struct.error as error:
            raise _not_ours(record) from error
        event_us = int.from_bytes(unpacked[0], "big") - _BIAS
        if (self._ttl_us is not None and at_us - event_us > self._ttl_us) or (
            latest_us is not None and event_us > latest_us
        ):
            return (None,) * self._width
        missing = unpacked[1 : self._first]
        values: Sequence[wire.Value] = unpacked[self._first :]
        if not self._texts and not any(missing):
            return values
        found = list(values)
        for index in self._texts:
            span: Any = values[index]
            start, size = span & 0xFFFFFFFF, span >> 32
            found[index] = record[start : start + size].decode()
        for index in range(self._width):
            if missing[index >> 6] >> (index & 63) & 1:
                found[index] = None
        return found

    def _decode_many(
        self, records: Sequence[bytes | None], at_us: int, latest_us: int | None
    ) -> list[list[wire.Value]]:
        size = self._struct.size
        blank = bytes(size)
        try:
            rows = np.frombuffer(
                b"".join([blank if record is None else record for record in records]),
                dtype=self._record,
            )
        except ValueError as error:
            raise _not_ours(next(r for r in records if r is not None and len(r) != size)) from error
        if len(rows) != len(records):
            raise _not_ours(next(r for r in records if r is not None and len(r) != size))
        times = rows["time"]
        # No moment of ours is the bias's own zero, 292,000 years ago.
        alive = times != 0
        if self._ttl_us is not None:
            alive &= times >= np.uint64(max(0, at_us - self._ttl_us + _BIAS))
        if latest_us is not None:
            alive &= times <= np.uint64(latest_us + _BIAS)
        whole = bool(alive.all())
        found: list[list[wire.Value]] = []
        for index in range(self._width):
            column: list[wire.Value] = rows[f"f{index}"].tolist()
            words = rows[f"null{index >> 6}"]
            if whole and not words.any():
                found.append(column)
                continue
            gone = ~alive | ((words >> np.uint64(index & 63)) & np.uint64(1)).astype(bool)
            for row in np.flatnonzero(gone).tolist():
                column[row] = None
            found.append(column)
        return found


def _not_ours(record: bytes) -> HeliostatError:
    return HeliostatError(
        f"online record of {len(record)} bytes: is not of the view's version; "
        "something else wrote to its key"
    )


def feast_fields(view: FeatureView) -> tuple[list[bytes], bytes]:
    """Names of a view's fields in Feast's hash of an entity: the features' and the time's."""
    return feast_names(view.name, [item.name for item in view.features])


def feast_names(view: str, features: Sequence[str]) -> tuple[list[bytes], bytes]:
    """The same by the names of a view and its features."""
    import mmh3

    names = [struct.pack("<I", mmh3.hash(f"{view}:{name}", signed=False)) for name in features]
    return names, f"_ts:{view}".encode()
