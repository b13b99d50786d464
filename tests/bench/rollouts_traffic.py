"""Made-up traffic of two versions: the ways to err that `rollouts.py` counts false alarms for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

RATE = 100
"""Requests per second of both versions together."""


def requests(random: Any, size: tuple[int, int], share: float) -> tuple[Any, Any]:
    """Requests of candidate and stable, second by second."""
    total = random.poisson(RATE, size)
    candidate = random.binomial(total, share)
    return candidate, total - candidate


def independent(
    random: Any, size: tuple[int, int], share: float, ratios: tuple[float, float]
) -> Any:
    """Each request errs on its own; ratios of candidate and stable."""
    n1, n0 = requests(random, size, share)
    return n1, random.binomial(n1, ratios[0]), n0, random.binomial(n0, ratios[1])


def bursts(
    random: Any, size: tuple[int, int], share: float, *, every_s: float, lasts_s: int, ratio: float,
    base: float, common: bool,
) -> Any:  # fmt: skip
    """Either both versions fail together, or each on its own, equally often and long."""
    n1, n0 = requests(random, size, share)

    def on() -> Any:
        begins = random.random(size) < 1 / every_s
        now = np.zeros(size, bool)
        for age in range(lasts_s):
            now[:, age:] |= begins[:, : size[1] - age]
        return np.where(now, ratio, base)

    first = on()
    second = first if common else on()
    return n1, random.binomial(n1, first), n0, random.binomial(n0, second)


def by_unit(
    random: Any, size: tuple[int, int], share: float, *, per_unit: float,
    bad: tuple[float, float] = (0.01, 0.01),
) -> Any:  # fmt: skip
    """A share of each version's units fails at its every request; told are units, as gateways do.

    A unit makes a geometric number of requests, one a second, and fails for the first time at
    its first one. Returned are requests and failed units of candidate and stable, and the
    errors of both.
    """
    rollouts, seconds = size
    parts, errors = [], []
    for part, failing_share in ((share, bad[0]), (1 - share, bad[1])):
        begun = random.poisson(RATE * part / per_unit, size)
        failing = random.binomial(begun, failing_share)
        n, x = np.zeros(size, int), np.zeros(size, int)
        stay = 1 - 1 / per_unit
        # Begins as it will go on, and not with a few units.
        here = random.poisson(RATE * part * (1 - failing_share), rollouts)
        bad_here = random.poisson(RATE * part * failing_share, rollouts)
        for second in range(seconds):
            here = random.binomial(here, stay) + begun[:, second] - failing[:, second]
            bad_here = random.binomial(bad_here, stay) + failing[:, second]
            n[:, second], x[:, second] = here + bad_here, bad_here
        parts += [n, failing]
        errors.append(x)
    return tuple(parts), errors


def lone(**options: Any) -> Callable[..., Any]:
    """Bursts of each version on its own."""
    return partial(bursts, common=False, ratio=0.5, **options)


def units_of(per_unit: float) -> Callable[..., Any]:
    """What gateways tell of units of so many requests, of which one in a hundred always fails."""
    return lambda *where: by_unit(*where, per_unit=per_unit)[0]


SHARES = {"1%": 0.01, "5%": 0.05, "25%": 0.25, "50%": 0.5}
CLAIMED: dict[str, Callable[..., Any]] = {
    "independent 1%": partial(independent, ratios=(0.01, 0.01)),
    "bursts of both, 5 s": partial(
        bursts, every_s=60.0, lasts_s=5, ratio=0.3, base=0.002, common=True
    ),
    "bursts of each, 2 s every 10 min": lone(every_s=600.0, lasts_s=2, base=0.002),
    "bursts of each, 2 s every 5 min": lone(every_s=300.0, lasts_s=2, base=0.002),
    "bursts of each, 5 s every 10 min": lone(every_s=600.0, lasts_s=5, base=0.002),
    "bursts of each, 5 s every 5 min": lone(every_s=300.0, lasts_s=5, base=0.002),
    "bursts of each, 5 s every 1 min, no other errors": lone(every_s=60.0, lasts_s=5, base=0.0),
    "bursts of each, 1 s every 50 s, no other errors": lone(every_s=50.0, lasts_s=1, base=0.0),
    "units of 5 requests, 1% always fail": units_of(5.0),
    "units of 50 requests, 1% always fail": units_of(50.0),
}
REPORTED: dict[str, Callable[..., Any]] = {
    "bursts of each, 5 s every 1 min": lone(every_s=60.0, lasts_s=5, base=0.005),
    "bursts of each, 1 s every 20 s": lone(every_s=20.0, lasts_s=1, base=0.005),
    "bursts of each, 10 s every 5 min": lone(every_s=300.0, lasts_s=10, base=0.005),
    "bursts of each, 30 s every 10 min": lone(every_s=600.0, lasts_s=30, base=0.002),
}
