"""Tests whose looks are planned before: group sequential bounds and sample sizes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import optimize
from scipy import stats as scipy_stats
from scipy.special import ndtr

from heliostat.config import require

Spending = Literal["obrien_fleming", "pocock"]

_GRID = 601


def spent(information: float, alpha: float, spending: Spending) -> float:
    """How much of a two-sided alpha may be used up at a fraction of the planned information.

    Source: Lan & DeMets, "Discrete sequential boundaries for clinical trials", Biometrika 70
    (1983), their functions 1 and 2.

    >>> spent(1.0, 0.05, "pocock")
    0.05
    """
    if spending == "pocock":
        return alpha * math.log(1 + (math.e - 1) * information)
    z = scipy_stats.norm.isf(alpha / 4)
    return float(4 * scipy_stats.norm.sf(z / math.sqrt(information)))


def bounds(
    information: Sequence[float], alpha: float, spending: Spending = "obrien_fleming"
) -> list[float]:
    """Z values beyond which a look rejects, two-sided, so that all looks together use up alpha.

    Source: Armitage, McPherson, Rowe, "Repeated significance tests on accumulating data",
    JRSS A 132 (1969): numeric integration of the density that is left after each look.

    Args:
        information: Fraction of the planned units at each look, rising, the last at most 1.
        alpha: Chance of ever rejecting without an effect, 0 to 1.
        spending: O'Brien and Fleming's is strict at first, Pocock's even.

    Raises:
        ConfigError: The fractions do not rise from above 0 to at most 1, or alpha is no chance.
    """
    times = [0.0, *information]
    require(
        len(times) > 1 and times[-1] <= 1
        and all(low < high for low, high in itertools.pairwise(times)),
        "stats.information", tuple(information), "must rise from above 0 to at most 1",
    )  # fmt: skip
    require(0 < alpha < 1, "stats.alpha", alpha, "must lie between 0 and 1")
    found: list[float] = []
    points, density = np.zeros(1), np.ones(1)
    before = 0.0
    for last, now in itertools.pairwise(times):
        target = spent(now, alpha, spending) - before
        before += target
        step, root = math.sqrt(now - last), math.sqrt(now)

        beyond = partial(_beyond, points, density, step, root, target)
        z = float(optimize.brentq(beyond, 1e-3, 12.0))
        found.append(z)
        # Simpson's rule needs an odd number of points; the weights go into the density.
        grid = np.linspace(-z * root, z * root, _GRID)
        weights = np.full(_GRID, 2.0)
        weights[1::2] = 4.0
        weights[[0, -1]] = 1.0
        weights *= (grid[1] - grid[0]) / 3
        if now < times[-1]:
            # The density of a normal distribution; scipy's own checks cost ten times as much.
            kernel = np.exp(-0.5 * ((grid[:, None] - points) / step) ** 2)
            kernel /= step * math.sqrt(2 * math.pi)
            points, density = grid, (kernel @ density) * weights
    return found


def _beyond(
    points: NDArray[np.float64],
    density: NDArray[np.float64],
    step: float,
    root: float,
    target: float,
    z: float,
) -> float:
    """Chance that the walk leaves the bounds at this look, less what it should be."""
    edge = z * root
    inside = ndtr((edge - points) / step) - ndtr((-edge - points) / step)
    return float(density @ (1 - inside)) - target


def units_needed(*, effect: float, deviation: float, alpha: float, power: float) -> int:
    """Units per version after which a fixed test finds a difference of means, two-sided.

    Source: Chow, Shao, Wang, "Sample Size Calculations in Clinical Research", equation 3.9.

    Args:
        effect: Smallest difference that matters, not 0.
        deviation: Standard deviation of one unit's value, above 0.
        alpha: Chance of finding a difference where there is none.
        power: Chance of finding this one.

    >>> units_needed(effect=0.5, deviation=1.0, alpha=0.05, power=0.8)
    63
    """
    require(effect != 0 and deviation > 0, "stats.effect", effect, "must not be 0")
    z = scipy_stats.norm.isf(alpha / 2) + scipy_stats.norm.ppf(power)
    return math.ceil(2 * float(z * deviation / effect) ** 2)
