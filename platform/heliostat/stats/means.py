"""Mergeable moments and bounds of a mean that hold at every moment after a burn-in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from heliostat.config import require

BURN_IN = 500
"""Least number of values before `bounds` may be used: it leans on the normal limit."""

TUNED_AT = 2_000
"""Number of values at which the bounds are narrowest; any choice is valid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Moments:
    """Count, mean and summed squared deviation of values; merge in any order."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared deviations from the mean."""

    @staticmethod
    def of(values: ArrayLike) -> Moments:
        """Moments of the values; NaN stays visible as NaN.

        >>> Moments.of([1.0, 2.0, 3.0])
        Moments(count=3, mean=2.0, squares=2.0)
        """
        array = np.asarray(values, dtype=np.float64)
        if array.size == 0:
            return Moments()
        mean = float(array.mean())
        return Moments(count=array.size, mean=mean, squares=float(((array - mean) ** 2).sum()))

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets of values.

        Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for
        computing sample variances", COMPSTAT 1982.
        """
        count = self.count + other.count
        if count == 0:
            return self
        shift = other.mean - self.mean
        return Moments(
            count=count,
            mean=self.mean + shift * other.count / count,
            squares=self.squares + other.squares + shift**2 * self.count * other.count / count,
        )

    @property
    def deviation(self) -> float:
        """Standard deviation; NaN below two values."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else math.nan


def half_width(
    count: ArrayLike, deviation: ArrayLike, alpha: float, tuned_at: int = TUNED_AT
) -> NDArray[np.float64]:
    """Distance from the running mean to a one-sided bound, right at all times at once.

    The asymptotic confidence sequence: the chance that the (running average) true mean is
    ever beyond ``mean + half_width`` is about alpha, however often one looks, if looking
    begins after `BURN_IN` values. Take alpha / 2 on each side for an interval.

    Source: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory
    and asymptotic confidence sequences", arXiv 2103.06476, in its one-sided form.

    Args:
        count: Number of values.
        deviation: Their standard deviation.
        alpha: Chance of ever being wrong, above 0 and below 0.5.
        tuned_at: Number of values at which the bound is narrowest.

    >>> round(float(half_width(1_000, 0.3, 0.01)), 4)
    0.0323
    """
    require(0 < alpha < 0.5, "stats.alpha", alpha, "must lie between 0 and 0.5")
    n = np.asarray(count, dtype=np.float64)
    log_two_alpha = math.log(2 * alpha)
    rho_squared = (-2 * log_two_alpha + math.log(1 - 2 * log_two_alpha)) / tuned_at
    spread = n * rho_squared + 1
    return np.asarray(
        np.asarray(deviation)
        * np.sqrt(2 * spread / (n**2 * rho_squared) * np.log1p(np.sqrt(spread) / (2 * alpha)))
    )


def bounds(moments: Moments, alpha: float) -> tuple[float, float]:
    """Lower and upper bound of the mean, each right at all times with chance 1 - alpha.

    Infinite below `BURN_IN` values, so that too little evidence decides nothing.
    """
    if moments.count < BURN_IN:
        return -math.inf, math.inf
    width = float(half_width(moments.count, moments.deviation, alpha))
    return moments.mean - width, moments.mean + width
