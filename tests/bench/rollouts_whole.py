"""Count how whole rollouts and A/B tests of equal versions end: part of `make prove-rollouts`."""

from __future__ import annotations

import collections
import multiprocessing
import time
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from heliostat.rollout import comparing, simulated
from heliostat.rollout.allowed import Comparison
from heliostat.rollout.known import Compared
from heliostat.rollout.plan import RolloutPlan
from heliostat.stats import units

PLAN_LEVEL = 0.031
"""Errors, latency and loss at 1 % each, and the split at 0.1 %: what the default plan may err."""


def counted(alarms: int, trials: int, level: float) -> dict[str, Any]:
    """Alarms with their exact 99 % interval (Clopper & Pearson 1934) beside the stated level."""
    low, high = scipy_stats.binomtest(alarms, trials).proportion_ci(0.99)
    return {
        "alarms": alarms,
        "trials": trials,
        "ratio": alarms / trials,
        "low_99": float(low),
        "high_99": float(high),
        "level": level,
        "holds": bool(low <= level),
    }


def played(seed: int) -> str:
    """How one A/A rollout by the shipped default plan ends, played through `decide`."""
    plan = RolloutPlan(model="m", candidate="2")
    equal = simulated.Version(error_ratio=0.005)
    traffic = simulated.synthetic(equal, equal, requests_per_s=240.0, seconds=1_800, seed=seed)
    return simulated.play(plan, traffic, salt=f"run-{seed}").outcome


def through_decide(rollouts: int, processes: int) -> dict[str, Any]:
    """A/A rollouts through the whole of `decide`: gathering, gates and steps of the default plan."""
    began = time.monotonic()
    if processes == 1:
        ends = collections.Counter(map(played, range(rollouts)))
    else:
        with multiprocessing.get_context("forkserver").Pool(processes) as pool:
            ends = collections.Counter(pool.imap_unordered(played, range(rollouts), chunksize=10))
    return {
        **counted(ends["rolled_back"], rollouts, PLAN_LEVEL),
        "promoted": ends["promoted"],
        "unfinished": ends["unfinished"],
        "requests_per_s": 240,
        "error_ratio": 0.005,
        "seconds": round(time.monotonic() - began, 1),
    }


def compared(tests: int) -> dict[str, Any]:
    """A/A tests of units through the looks of the default comparison, which is adjusted (CUPED)."""
    registered = Comparison(metric="spent", effect=0.2, deviation=1.0)
    needed = registered.units_needed(0.5)
    found = looks = 0
    for seed in range(tests):
        random = np.random.default_rng([31, seed])
        before = random.normal(5.0, 0.9, needed + 200)
        value = before + random.normal(0.0, 0.4, before.size)
        mine = random.random(before.size) < 0.5
        taken: tuple[comparing.Look, ...] = ()
        seen = 0
        while not taken or not (taken[-1].found or taken[-1].information >= 1):
            seen += int(random.poisson(40))
            sides = [
                units.Sums.of(value[:seen][here], before[:seen][here])
                for here in (~mine[:seen], mine[:seen])
            ]
            both = Compared(stable=sides[0], candidate=sides[1])
            if comparing.due(registered, both, 0.5, len(taken)):
                look = comparing.look(registered, both, 0.5, taken)
                taken = taken if look is None else (*taken, look)
        found += taken[-1].found
        looks += len(taken)
    return {**counted(found, tests, registered.alpha), "looks": looks}
