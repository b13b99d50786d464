"""Histograms that add up: what the values of a feature were like, kept to be compared later.

Buckets do not depend on the data, so that histograms of parts, of other days and of other machines
add up to that of the whole, exactly and in any order. Buckets of numbers grow with the number: each
is 5 % wide, so that quantiles are right within 2.5 %. Texts are counted one by one up to a limit,
beyond it by a hash.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from heliostat.config import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

GROWTH = 1.05
"""Each bucket of numbers ends at so many times its beginning."""

SMALLEST = 1e-12
"""Numbers nearer to zero count as zero."""

LARGEST = 1e15
"""Numbers beyond it, and infinity, share one bucket of each sign."""

TEXTS = 200
"""More different texts than these are counted by a hash."""

HASHED = 256
"""Buckets of the hash."""

Kind = Literal["number", "text", "hashed"]

_LAST = math.floor(math.log(LARGEST / SMALLEST) / math.log(GROWTH)) + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """Counts of one feature's values."""

    kind: Kind

    rows: int
    """Values, missing ones included."""

    missing: int

    counts: Mapping[str, int]
    """Values by bucket: a number's is a whole number in text, 0 for zero, negative below it;
    a text's is the text itself, or the hash's number."""

    def __post_init__(self) -> None:
        seen = sum(self.counts.values())
        require(
            seen + self.missing == self.rows, "histogram.rows", self.rows,
            f"must be the {seen} counted and the {self.missing} missing",
        )  # fmt: skip

    @property
    def missing_ratio(self) -> float | None:
        """Share of values that are missing; None of no values."""
        return None if not self.rows else self.missing / self.rows

    def quantile(self, level: float) -> float | None:
        """Estimate a quantile of numbers, within 2.5 %; None without values or of texts.

        >>> round(of_numbers(np.arange(1.0, 1001.0)).quantile(0.5))
        495
        """
        require(0 <= level <= 1, "histogram.level", level, "must be 0 to 1")
        if self.kind != "number" or not self.counts:
            return None
        buckets = sorted((int(name), count) for name, count in self.counts.items())
        within = np.cumsum([count for _, count in buckets])
        place = int(np.searchsorted(within, level * within[-1]))
        return middle(buckets[min(place, len(buckets) - 1)][0])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them."""
        return {
            "kind": self.kind, "rows": self.rows, "missing": self.missing,
            "counts": dict(sorted(self.counts.items())),
        }  # fmt: skip

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> Histogram:
        """Read what `to_dict` made."""
        return Histogram(**raw)


def of_numbers(values_N: NDArray[np.float64]) -> Histogram:
    """Count numbers; NaN is missing. Shape (N,).

    >>> of_numbers(np.array([0.0, -2.0, 2.0, 2.0, np.nan])).to_dict()["counts"]
    {'-581': 1, '0': 1, '581': 2}
    """
    known = values_N[~np.isnan(values_N)]
    size = np.abs(known)
    index = np.zeros(len(known), np.int64)
    large = size >= SMALLEST
    with np.errstate(divide="ignore"):
        found = np.floor(np.log(size[large] / SMALLEST) / math.log(GROWTH)) + 1
    index[large] = np.minimum(found, _LAST).astype(np.int64)
    index = np.where(known < 0, -index, index)
    buckets, counts = np.unique(index, return_counts=True)
    return Histogram(
        kind="number", rows=len(values_N), missing=len(values_N) - len(known),
        counts={str(b): int(n) for b, n in zip(buckets.tolist(), counts.tolist(), strict=True)},
    )  # fmt: skip


def of_texts(counts: Mapping[str | None, int]) -> Histogram:
    """Take texts and how often each was seen; None is missing."""
    known = {text: count for text, count in counts.items() if text is not None}
    missing = counts.get(None, 0)
    return _texts(known, rows=missing + sum(known.values()), missing=missing)


def merged(parts: Iterable[Histogram]) -> Histogram:
    """Add up histograms of one feature, at least one; the same as of all values at once.

    Raises:
        ConfigError: There is none, or some are of numbers and some of texts.
    """
    found = list(parts)
    require(bool(found), "histograms", (), "must be at least one")
    kinds = {item.kind for item in found}
    rows, missing = sum(item.rows for item in found), sum(item.missing for item in found)
    if kinds == {"number"}:
        total: Counter[str] = Counter()
        for item in found:
            total.update(item.counts)
        return Histogram(kind="number", rows=rows, missing=missing, counts=dict(total))
    require("number" not in kinds, "histograms", sorted(kinds), "must be of one kind of feature")
    total = Counter()
    for item in found:
        total.update(
            _hashed(item.counts) if kinds != {"text"} and item.kind == "text" else item.counts
        )
    if "hashed" in kinds:
        return Histogram(kind="hashed", rows=rows, missing=missing, counts=dict(total))
    return _texts(total, rows=rows, missing=missing)


def middle(bucket: int) -> float:
    """The middle of a bucket of numbers.

    >>> middle(0), round(middle(581), 2), round(middle(-581), 2)
    (0.0, 2.0, -2.0)
    """
    if bucket == 0:
        return 0.0
    size: float = SMALLEST * GROWTH ** (abs(bucket) - 0.5)
    return size if bucket > 0 else -size


def _texts(counts: Mapping[str, int], *, rows: int, missing: int) -> Histogram:
    if len(counts) <= TEXTS:
        return Histogram(kind="text", rows=rows, missing=missing, counts=dict(counts))
    return Histogram(kind="hashed", rows=rows, missing=missing, counts=_hashed(counts))


def _hashed(counts: Mapping[str, int]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for text, count in counts.items():
        total[str(zlib.crc32(text.encode("utf-8", "surrogatepass")) % HASHED)] += count
    return dict(total)
