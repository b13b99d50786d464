"""Count how whole rollouts and A/B tests of equal versions end: part of `make prove-rollouts`."""

from __future__ import annotations

import collections
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
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


def spread(
    work: Callable[[Any], Any], jobs: Sequence[Any], processes: int, chunksize: int = 1
) -> Iterator[Any]:
    """Do the jobs in so many processes; results come in the order of the jobs."""
    if processes == 1:
        yield from map(work, jobs)
        return
    with multiprocessing.get_context("forkserver").Pool(processes) as pool:
        yield from pool.imap(work, jobs, chunksize=chunksize)


def through_decide(rollouts: int, processes: int) -> dict[str, Any]:
    """A/A rollouts through the whole of `decide`: gathering, gates and steps of the default plan."""
    began = time.monotonic()
    ends: collections.Counter[str] = collections.Counter()
    for number, outcome in enumerate(spread(played, range(rollouts), processes, 10), start=1):
        ends[outcome] += 1
        if number % 250 == 0:
            print(f"through decide: {number} of {rollouts}", file=sys.stderr, flush=True)
    return {
        **counted(ends["rolled_back"], rollouts, PLAN_LEVEL),
        "promoted": ends["promoted"],
        "unfinished": ends["unfinished"],
        "requests_per_s": 240,
        "error_ratio": 0.005,
        "seconds": round(time.monotonic() - began, 1),
    }


def tested(seed: int) -> tuple[bool, int]:
    """One A/A test of units through the looks of the default comparison, adjusted (CUPED)."""
    registered = Comparison(metric="spent", effect=0.2, deviation=1.0)
    needed = registered.units_needed(0.5)
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
    return taken[-1].found, len(taken)


def compared(tests: int, processes: int = 1) -> dict[str, Any]:
    """A/A tests: how many find a difference, and how often they looked."""
    ends = list(spread(tested, range(tests), processes, 10))
    level = Comparison(metric="spent", effect=0.2, deviation=1.0).alpha
    return {
        **counted(sum(found for found, _ in ends), tests, level),
        "looks": sum(looks for _, looks in ends),
    }
