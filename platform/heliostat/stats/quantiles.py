"""Bounds of a quantile from a histogram that hold at every moment."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from heliostat.config import require
from heliostat.stats import proportions

_PRIOR_TRIALS = 20.0
"""Weight of the prior around the quantile's own level; fits about 100 to 10,000 values."""


def bounds(
    counts: Sequence[int], edges: Sequence[float], quantile: float, alpha: float
) -> tuple[float, float]:
    """Lower and upper bound of a quantile, both right at all times at once.

    A value is at most an edge or it is not, so each edge gives a share of events, tested
    by `proportions.log_e`. Shares rise from edge to edge, therefore only the edge next to
    the true quantile can go wrong, and no correction for the number of edges is needed.

    Source: the reduction of quantiles to proportions in Howard & Ramdas, "Sequential
    estimation of quantiles", Bernoulli 28 (2022), arXiv 1906.09712, section 1, with the
    beta-binomial mixture in place of their boundaries.

    Args:
        counts: Values per bucket, one more than `edges`; the last is above all edges.
        edges: Rising upper edges (inclusive) of the buckets.
        quantile: Level of the quantile, such as 0.95.
        alpha: Chance that the true quantile is ever outside.

    Returns:
        Edges: 0 if nothing is known from below, infinity if nothing is known from above.

    >>> bounds([0, 400, 3, 0], [1.0, 2.0, 3.0], 0.95, 0.01)
    (1.0, 2.0)
    """
    require(0 < quantile < 1, "stats.quantile", quantile, "must lie between 0 and 1")
    require(len(counts) == len(edges) + 1, "stats.counts", len(counts), "needs one more than edges")
    within = np.cumsum(np.asarray(counts, dtype=np.float64))
    total, within = within[-1], within[:-1]
    if total == 0:
        return 0.0, math.inf
    prior = (_PRIOR_TRIALS * quantile, _PRIOR_TRIALS * (1 - quantile))
    certain = proportions.log_e(within, total, quantile, prior) >= -math.log(alpha)
    above = np.flatnonzero(certain & (within > quantile * total))
    below = np.flatnonzero(certain & (within < quantile * total))
    return (
        float(edges[below[-1]]) if below.size else 0.0,
        float(edges[above[0]]) if above.size else math.inf,
    )


def estimate(counts: Sequence[int], edges: Sequence[float], quantile: float) -> float | None:
    """Point estimate of a quantile: the edge of its bucket; None without values.

    >>> estimate([0, 400, 3, 0], [1.0, 2.0, 3.0], 0.95)
    2.0
    """
    within = np.cumsum(counts)
    if within[-1] == 0:
        return None
    index = int(np.searchsorted(within, quantile * within[-1]))
    return float(edges[index]) if index < len(edges) else math.inf
