"""Means of ratio metrics by unit, and less variance by what was known of the units before."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from heliostat.config import require


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean and how far it may be off."""

    value: float
    standard_error: float
    units: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Sums:
    """Sums over units of two values and their squares and product; merge in any order."""

    units: int = 0
    a: float = 0.0
    b: float = 0.0
    aa: float = 0.0
    bb: float = 0.0
    ab: float = 0.0

    @staticmethod
    def of(a_U: ArrayLike, b_U: ArrayLike) -> Sums:
        """Sums of two values per unit, each of shape (U,).

        Raises:
            ConfigError: The shapes differ.
        """
        a, b = np.asarray(a_U, float), np.asarray(b_U, float)
        require(a.shape == b.shape and a.ndim == 1, "stats.units", b.shape, f"must be {a.shape}")
        return Sums(
            units=a.size,
            a=float(a.sum()),
            b=float(b.sum()),
            aa=float(a @ a),
            bb=float(b @ b),
            ab=float(a @ b),
        )

    def merge(self, other: Sums) -> Sums:
        """Sums over the units of both; a unit must be in one of them only."""
        return Sums(**{name: getattr(self, name) + getattr(other, name) for name in Sums.__slots__})

    def covariances(self) -> tuple[float, float, float]:
        """Sample variances of a and b, and their covariance; NaN below two units."""
        if self.units < 2:
            return math.nan, math.nan, math.nan
        n = self.units

        def joint(product: float, x: float, y: float) -> float:
            return (product - x * y / n) / (n - 1)

        return (
            joint(self.aa, self.a, self.a),
            joint(self.bb, self.b, self.b),
            joint(self.ab, self.a, self.b),
        )


def ratio(sums: Sums) -> Estimate:
    """Ratio of sums, such as errors per request, where units and not requests are independent.

    Source: the delta method as in Deng, Knoblich, Lu, "Applying the Delta Method in Metric
    Analytics", KDD 2018, section 3.1, equation 3.

    Args:
        sums: Per unit, a is the numerator and b the denominator.

    >>> ratio(Sums.of([1, 0, 2, 1], [4, 2, 6, 4])).value
    0.25
    """
    if sums.units < 2 or sums.b == 0:
        return Estimate(value=math.nan, standard_error=math.nan, units=sums.units)
    value = sums.a / sums.b
    var_a, var_b, cov = sums.covariances()
    variance = (var_a - 2 * value * cov + value**2 * var_b) / (sums.b / sums.units) ** 2
    error = math.sqrt(max(0.0, variance) / sums.units)
    return Estimate(value=value, standard_error=error, units=sums.units)


def adjusted_difference(candidate: Sums, stable: Sums) -> Estimate:
    """Candidate's mean of a less stable's, adjusted by b, a value from before the rollout.

    One slope is fitted to both, so that the adjustment favours neither. What the rollout may
    have changed must not be used as b.

    Source: CUPED; Deng, Xu, Kohavi, Walker, "Improving the Sensitivity of Online Controlled
    Experiments by Utilizing Pre-Experiment Data", WSDM 2013, section 3.2.

    Args:
        candidate: Per unit, a is the metric and b the same unit's value from before.
        stable: Likewise.
    """
    units = candidate.units + stable.units
    if min(candidate.units, stable.units) < 2:
        return Estimate(value=math.nan, standard_error=math.nan, units=units)
    arms = [(arm, arm.covariances()) for arm in (candidate, stable)]
    spread = sum((arm.units - 1) * var_b for arm, (_, var_b, _) in arms)
    joint = sum((arm.units - 1) * cov for arm, (_, _, cov) in arms)
    slope = joint / spread if spread > 0 else 0.0
    means = [arm.a / arm.units - slope * arm.b / arm.units for arm, _ in arms]
    variance = sum(
        (var_a - 2 * slope * cov + slope**2 * var_b) / arm.units
        for arm, (var_a, var_b, cov) in arms
    )
    return Estimate(
        value=means[0] - means[1], standard_error=math.sqrt(max(0.0, variance)), units=units
    )
