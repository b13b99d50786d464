"""How a version's scores differ from the stable one's on the same rows, less the noise.

The noise is what a twin of the stable version, in an app of its own, differs from it: what the
twin shows as well is no property of the candidate.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

_RANK_WINDOW = 1_000
_BOUNDARY = 0.5


class Differences:
    """Sums over the rows that both scored; constant memory."""

    def __init__(self, *, tolerance: float = 1e-3) -> None:
        """Begin empty.

        Args:
            tolerance: Scores further apart than this count as different.
        """
        self.tolerance = tolerance
        self.num_rows = 0
        self.num_beyond = 0
        self.num_flips = 0
        self._sum_gap = 0.0
        self._max_gap = 0.0
        self._sums = np.zeros((2, 2))  # stable and other: sum, sum of squares
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RANK_WINDOW)
        self._latency_s = 0.0
        self._num_timed = 0

    def add(
        self, stable: Sequence[float], other: Sequence[float], *, latency_s: float | None = None
    ) -> tuple[int, int]:
        """Add the scores of one request; returns how many rows were beyond, and flipped.

        Args:
            stable: The stable version's finite scores.
            other: The other version's, of the same rows.
            latency_s: The other version's own time per row, if known.
        """
        beyond = flips = 0
        for left, right in zip(stable, other, strict=True):
            gap = abs(left - right)
            beyond += gap > self.tolerance
            flips += (left >= _BOUNDARY) != (right >= _BOUNDARY)
            self._sum_gap += gap
            self._max_gap = max(self._max_gap, gap)
            self._sums += ((left, left * left), (right, right * right))
            self._recent.append((left, right))
        self.num_rows += len(stable)
        self.num_beyond += beyond
        self.num_flips += flips
        if latency_s is not None:
            self._latency_s += latency_s
            self._num_timed += 1
        return beyond, flips

    def summary(self) -> dict[str, Any]:
        """Plain values; rates are None before the first row."""
        rows = self.num_rows
        return {
            "rows": rows,
            "tolerance": self.tolerance,
            "beyond_ratio": _ratio(self.num_beyond, rows),
            "flip_ratio": _ratio(self.num_flips, rows),
            "mean_gap": _ratio(self._sum_gap, rows),
            "max_gap": self._max_gap if rows else None,
            "rank_distance": rank_distance(list(self._recent)),
            "drift": self._drift(),
            "latency_ms_per_row": _ratio(self._latency_s * 1000, self._num_timed),
        }

    def _drift(self) -> float | None:
        """Difference of the mean scores in standard deviations of the stable ones."""
        if self.num_rows < 2:
            return None
        mean, other = self._sums[:, 0] / self.num_rows
        variance = self._sums[0, 1] / self.num_rows - mean * mean
        gap = other - mean
        return float(gap / math.sqrt(variance)) if variance > 1e-18 else float(bool(gap))


def rank_distance(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Spearman's footrule of two scorings of the same rows, 0 (same order) to 1 (reversed).

    None with fewer than two rows. Equal scores keep the order they came in.

    >>> rank_distance([(0.1, 0.2), (0.5, 0.6), (0.9, 0.7)])
    0.0
    >>> rank_distance([(0.1, 0.9), (0.5, 0.6), (0.9, 0.2)])
    1.0
    """
    if len(pairs) < 2:
        return None
    ranks = np.argsort(np.argsort(np.asarray(pairs), axis=0, kind="stable"), axis=0)
    most = len(pairs) ** 2 // 2
    return float(np.abs(ranks[:, 0] - ranks[:, 1]).sum() / most)


def compare(candidate: Differences, twin: Differences | None) -> dict[str, Any]:
    """Say what of the candidate's difference the twin does not show.

    Returns:
        The candidate's and the twin's summaries, and under ``excess`` how far the candidate's
        figures lie beyond the twin's, at least 0, for drift in either direction. Without a twin
        nothing is taken away, and the excess of latency, which has no zero of its own, is None.
    """
    found = candidate.summary()
    noise = None if twin is None or not twin.num_rows else twin.summary()
    known = noise or {}
    rates = ("beyond_ratio", "flip_ratio", "mean_gap", "rank_distance", "drift")
    excess = {name: _beyond(found[name], known.get(name) or 0.0) for name in rates}
    latency = "latency_ms_per_row"
    excess[latency] = (
        None if known.get(latency) is None else _beyond(found[latency], known[latency])
    )
    return {"candidate": found, "twin": noise, "excess": excess}


def _beyond(value: float | None, noise: float) -> float | None:
    return None if value is None else max(0.0, abs(value) - abs(noise))


def _ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None
