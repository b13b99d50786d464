"""What a block of good rows holds, in numbers that add up over blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from heliostat.config import require
from heliostat.data.contract import Contract

if TYPE_CHECKING:
    from datetime import datetime

    import polars as pl

NUM_BINS = 20
"""Bars of a column's histogram."""

SAMPLE_PER_BLOCK = 64
"""Values of each column that a block adds to its picture, evenly spaced over its rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnProfile:
    """One column of some rows."""

    num_rows: int
    num_nulls: int
    low: Any
    """Smallest value; None where there is none. Booleans and texts have none."""
    high: Any
    sample: tuple[float, ...] = ()
    """Some values of a numeric column, for a picture only."""

    @property
    def null_ratio(self) -> float:
        """Share of missing values; 0 without rows."""
        return self.num_nulls / self.num_rows if self.num_rows else 0.0


Profile = dict[str, ColumnProfile]


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A rule about the whole table that its rows do not keep."""

    check: str
    saw: str
    need: str


def profile(rows: pl.DataFrame, columns: Sequence[str]) -> Profile:
    """Look at each column of a block once."""
    import polars as pl

    every = max(1, rows.height // SAMPLE_PER_BLOCK)
    found = {}
    for name in columns:
        values = rows[name]
        ordered = values.dtype.is_numeric() or values.dtype.is_temporal()
        sample = ()
        if values.dtype.is_numeric():
            sample = tuple(values.gather_every(every).drop_nulls().cast(pl.Float64))
        found[name] = ColumnProfile(
            num_rows=len(values),
            num_nulls=values.null_count(),
            low=values.min() if ordered else None,
            high=values.max() if ordered else None,
            sample=sample,
        )
    return found


def together(profiles: Iterable[Profile]) -> Profile:
    """Add up the profiles of blocks.

    >>> one = {"a": ColumnProfile(num_rows=2, num_nulls=1, low=1, high=1)}
    >>> two = {"a": ColumnProfile(num_rows=1, num_nulls=0, low=0, high=0)}
    >>> total = together([one, two])["a"]
    >>> (total.num_rows, total.num_nulls, total.low, total.high)
    (3, 1, 0, 1)
    """
    parts: dict[str, list[ColumnProfile]] = {}
    for item in profiles:
        for name, column in item.items():
            parts.setdefault(name, []).append(column)
    return {
        name: ColumnProfile(
            num_rows=sum(item.num_rows for item in items),
            num_nulls=sum(item.num_nulls for item in items),
            low=min((item.low for item in items if item.low is not None), default=None),
            high=max((item.high for item in items if item.high is not None), default=None),
            sample=tuple(value for item in items for value in item.sample)[:20_000],
        )
        for name, items in parts.items()
    }


def judge(contract: Contract, found: Profile, now: datetime) -> tuple[Failure, ...]:
    """Test the contract's rules about the whole table: null shares, freshness and row count.

    Args:
        contract: What the table must keep.
        found: Profile of all good rows.
        now: The run's time; with time zone.
    """
    require(now.tzinfo is not None, "profile.now", now, "must have a time zone")
    failures = []
    num_rows = max((item.num_rows for item in found.values()), default=0)
    if num_rows < contract.min_rows:
        failures.append(
            Failure(check="number of good rows", saw=f"{num_rows}", need=f"{contract.min_rows}")
        )
    for column in contract.columns:
        item = found.get(column.name)
        limit = column.max_null_ratio
        if item is not None and limit is not None and item.null_ratio > limit:
            failures.append(
                Failure(
                    check=f"share of missing values of {column.name}",
                    saw=f"{item.null_ratio:.4g}",
                    need=f"at most {limit:g}",
                )
            )
    if contract.freshness is not None:
        newest = found[contract.freshness.column].high if found else None
        age_s = None if newest is None else (now - newest).total_seconds()
        if age_s is None or age_s > contract.freshness.max_age_s:
            saw = "none" if age_s is None else f"{newest}, {age_s:.0f} s old"
            failures.append(
                Failure(
                    check=f"newest {contract.freshness.column}",
                    saw=saw,
                    need=f"at most {contract.freshness.max_age_s:g} s old",
                )
            )
    return tuple(failures)
