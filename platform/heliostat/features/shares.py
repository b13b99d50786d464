"""Rows cut by a hash of their keys and put back in order, without comparing them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl


@dataclass(frozen=True, kw_only=True, slots=True)
class Cut:
    """How rows are cut by a hash of their keys: into parts for tasks, each part into shares."""

    parts: int
    shares: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Rows of one part, share by share."""

    rows: Any
    """An Arrow table."""

    ends: tuple[int, ...]
    """Of each share, the row after its last."""

    def share(self, number: int) -> Any:
        """Rows of one share."""
        start = self.ends[number - 1] if number else 0
        return self.rows.slice(start, self.ends[number] - start)


def split(frame: pl.DataFrame, keys: pl.DataFrame, cut: Cut) -> list[Piece]:
    """Cut rows into parts, by a hash of keys beside them; within a share they keep their order.

    Rows without keys are all in the first share.
    """
    number = cut.parts * cut.shares
    if number == 1 or not keys.width:
        ordered, ends = frame, [frame.height] * number
    else:
        one = pl.col(keys.columns[0]) if keys.width == 1 else pl.struct(pl.all())
        # NumPy sorts 16 bits by counting them.
        kind = pl.UInt16 if number < 2**16 else pl.UInt32
        share = keys.select((one.hash(seed=0) % number).cast(kind)).to_series().to_numpy()
        order = np.argsort(share, kind="stable").astype(np.uint32)
        ordered = frame.select(pl.all().gather(pl.Series(order)))
        ends = np.cumsum(np.bincount(share, minlength=number)).tolist()
    pieces = []
    for first in range(0, number, cut.shares):
        start = ends[first - 1] if first else 0
        inside = ends[first : first + cut.shares]
        pieces.append(
            Piece(
                rows=ordered[start : inside[-1]].to_arrow(),
                ends=tuple(end - start for end in inside),
            )
        )
    return pieces


def by_number(frame: pl.DataFrame, name: str, *, first: int = 0) -> pl.DataFrame:
    """Order rows by a column that holds each number from `first` on once, and drop it.

    Each number says where its row belongs, so that nothing need be compared.
    """
    places = np.empty(frame.height, np.uint32)
    places[frame[name].to_numpy() - first] = np.arange(frame.height, dtype=np.uint32)
    return frame.select(pl.exclude(name).gather(pl.Series(places)))
