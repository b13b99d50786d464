"""What became of one chunk, as bytes that tasks answer with and that a killed ingest leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from heliostat.data.profile import ColumnProfile, Profile
from heliostat.data.staging import StagedFile


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedRow:
    """A row for quarantine; `line` counts from 0 within the chunk."""

    line: int
    kind: str
    reason: str
    raw: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """What became of one chunk; the good rows are in the staged file."""

    file: int
    number: int
    num_bytes: int
    num_lines: int
    num_rows: int
    refused: tuple[RefusedRow, ...]
    staged: tuple[StagedFile, ...]
    """One file, or one per partition; none if no row is good."""
    profile: Profile
    """What the good rows hold."""
    key_hashes: NDArray[np.uint64]
    """128 bits of hash of each good row's keys, shape (N, 2); N = 0 without keys."""
    key_lines: NDArray[np.int64]
    """The lines they are on, shape (N,)."""

    @property
    def place(self) -> tuple[int, int]:
        """File and chunk: where the block's rows come in the table."""
        return self.file, self.number


def pack(block: Block) -> bytes:
    """Write a block as MessagePack: it can be read back without running anything."""
    return msgspec.msgpack.encode(
        {
            "place": block.place,
            "counts": (block.num_bytes, block.num_lines, block.num_rows),
            "refused": [(row.line, row.kind, row.reason, row.raw) for row in block.refused],
            "staged": [asdict(file) for file in block.staged],
            "profile": {name: _profile_values(item) for name, item in block.profile.items()},
            "key_hashes": np.ascontiguousarray(block.key_hashes).tobytes(),
            "key_lines": np.ascontiguousarray(block.key_lines).tobytes(),
        }
    )


def unpack(packed: bytes) -> Block | None:
    """Read a block; None for bytes that a killed writer has cut."""
    try:
        found = msgspec.msgpack.decode(packed)
    except msgspec.DecodeError:
        return None
    num_bytes, num_lines, num_rows = found["counts"]
    return Block(
        file=found["place"][0],
        number=found["place"][1],
        num_bytes=num_bytes,
        num_lines=num_lines,
        num_rows=num_rows,
        refused=tuple(
            RefusedRow(line=line, kind=kind, reason=reason, raw=raw)
            for line, kind, reason, raw in found["refused"]
        ),
        staged=tuple(_staged(file) for file in found["staged"]),
        profile={name: _profile(values) for name, values in found["profile"].items()},
        key_hashes=np.frombuffer(found["key_hashes"], dtype=np.uint64).reshape(-1, 2),
        key_lines=np.frombuffer(found["key_lines"], dtype=np.int64),
    )


def _staged(file: Mapping[str, Any]) -> StagedFile:
    partition = tuple((name, value) for name, value in file["partition"])
    return StagedFile(**{**file, "partition": partition})


def _profile_values(item: ColumnProfile) -> tuple[Any, ...]:
    return (item.num_rows, item.num_nulls, _value(item.low), _value(item.high), item.sample)


def _profile(values: list[Any]) -> ColumnProfile:
    num_rows, num_nulls, low, high, sample = values
    return ColumnProfile(
        num_rows=num_rows, num_nulls=num_nulls, low=_typed(low), high=_typed(high),
        sample=tuple(sample),
    )  # fmt: skip


def _value(value: Any) -> Any:
    """Bounds are numbers, days or moments; the last two are told apart by a word."""
    if isinstance(value, datetime):
        return ("moment", value.isoformat())
    if isinstance(value, date):
        return ("day", value.isoformat())
    return value


def _typed(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    kind, text = value
    return datetime.fromisoformat(text) if kind == "moment" else date.fromisoformat(text)
