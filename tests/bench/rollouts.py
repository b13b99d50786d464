"""Count false alarms and detection times of the rollout statistics: `make prove-rollouts`.

Writes raw counts with exact bounds to ``tests/bench/results/rollouts.json``; ``--small`` is what
`make test` runs. A check fails where even the lower 99 % bound exceeds the stated level.

Which bursts are "claimed" was settled after trial runs with other seeds. Bursts of one version alone
that are long, or frequent while single errors come besides, are counted as "reported": no method
that finds harm as fast as the check demands can hold the level for all of them (adr/0010).
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats as scipy_stats
from scipy.special import logsumexp

from heliostat.rollout import gates
from heliostat.rollout.allowed import LatencyGate
from heliostat.rollout.evidence import LATENCY_EDGES_MS
from heliostat.rollout.gates import HARM_PART
from heliostat.rollout.known import Evidence, Tally
from heliostat.stats import harm, srm
from tests.bench import results, rollouts_whole
from tests.bench.rollouts_traffic import (
    CLAIMED,
    RATE,
    REPORTED,
    SHARES,
    by_unit,
    independent,
)
from tests.bench.rollouts_whole import counted

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "tests" / "bench" / "results" / "rollouts.json"
ALPHA = 0.01
LIMIT = -math.log(HARM_PART * ALPHA)
CHUNK = 2_000


def evidence(seen: Any, per_unit: float = 1.0) -> Any:
    """`Thinned.log_e` after each second, through the code that the gate uses."""
    n1, x1, n0, x0 = seen
    sums = harm.Thinned.none((len(n1),))
    found = np.empty(n1.shape)
    for second in range(n1.shape[1]):
        sums = sums.add(
            float(second),
            requests=n1[:, second],
            errors=x1[:, second],
            stable_requests=n0[:, second],
            stable_errors=x0[:, second],
        )
        found[:, second] = sums.log_e(per_unit)
    return found


def oracle(seen: Any, rate_ratio: float) -> Any:
    """The e-process that knows the effect and that errors are independent."""
    n1, x1, n0, x0 = seen
    share = n1 / np.maximum(n1 + n0, 1)
    factors = harm.log_factors(x1, x0, share, [rate_ratio]).cumsum(axis=1)
    return logsumexp(factors, axis=-1)


def threshold_gate(seen: Any, *, limit: float = 0.01, checks: int = 10, failures: int = 2) -> Any:
    """A usual gate: the ratio of each minute above a limit, so many times; when it says no."""
    n1, x1, _, _ = seen
    per_check = n1.shape[1] // checks
    n = n1.reshape(len(n1), checks, per_check).sum(axis=2)
    x = x1.reshape(len(x1), checks, per_check).sum(axis=2)
    return (x > limit * n).sum(axis=1) >= failures


def z_gate(seen: Any) -> Any:
    """A two-sample z-test at 1 %, one-sided, looked at each second once both have 30 requests."""
    n1, x1, n0, x0 = (part.cumsum(axis=1) for part in seen)
    pooled = (x1 + x0) / np.maximum(n1 + n0, 1)
    spread = np.sqrt(pooled * (1 - pooled) * (1 / np.maximum(n1, 1) + 1 / np.maximum(n0, 1)))
    z = (x1 / np.maximum(n1, 1) - x0 / np.maximum(n0, 1)) / np.maximum(spread, 1e-12)
    return ((z > scipy_stats.norm.isf(ALPHA)) & (n1 >= 30)).any(axis=1)


def setting(job: tuple[str, str, str, int, int, int]) -> tuple[str, str, dict[str, Any]]:
    """One way to err at one share, counted; a job for a process."""
    group, name, label, rollouts, seconds, series = job
    ways = {"claimed": CLAIMED, "reported": REPORTED}[group]
    alarms = naive = usual = 0
    for begin in range(0, rollouts, CHUNK):
        seed = [list(ways).index(name), int(1000 * SHARES[label]), begin, group == "claimed"]
        random = np.random.default_rng([*seed, *([series] if series else [])])
        seen = ways[name](random, (min(CHUNK, rollouts - begin), seconds), SHARES[label])
        alarms += int((evidence(seen) >= LIMIT).any(axis=1).sum())
        naive += int(z_gate(seen).sum())
        usual += int(threshold_gate(seen).sum())
    told = {
        "e_process": counted(alarms, rollouts, ALPHA),
        "naive_z": naive / rollouts,
        "threshold_1%": usual / rollouts,
    }
    return group, f"{name}, at {label}", told


def false_alarms(
    rollouts: int, seconds: int, processes: int, labels: Sequence[str], series: int = 0
) -> dict[str, Any]:
    """Each way in which an equal candidate can err, counted.

    Args:
        labels: At which of SHARES.
        series: Other numbers give other random numbers, for trials.
    """
    jobs = [
        (group, name, label, rollouts, seconds, series)
        for group, ways in (("claimed", CLAIMED), ("reported", REPORTED))
        for name in ways
        for label in labels
    ]
    told: dict[str, Any] = {"claimed": {}, "reported": {}}
    for number, (group, name, item) in enumerate(
        rollouts_whole.spread(setting, jobs, processes), start=1
    ):
        told[group][name] = item
        alarms = item["e_process"]["alarms"]
        progress(f"false alarms {number} of {len(jobs)}: {group}, {name}: {alarms} of {rollouts}")
    return told


def of_units(rollouts: int) -> dict[str, Any]:
    """Ten times the failing units at 5 %: seconds until found by units and by divided errors."""
    random = np.random.default_rng(15)
    seen, errors = by_unit(random, (rollouts, 900), 0.05, per_unit=20.0, bad=(0.1, 0.01))
    by_errors = (seen[0], errors[0], seen[2], errors[1])
    return {
        "by_units_median_s": finite(median_s(evidence(seen) >= LIMIT)),
        "by_errors_median_s": finite(median_s(evidence(by_errors, 20.0) >= LIMIT)),
        "rollouts": rollouts,
    }


def progress(words: str) -> None:
    """Say on stderr how far it is."""
    print(f"{time.strftime('%H:%M:%S')} {words}", file=sys.stderr, flush=True)


def detection(rollouts: int) -> dict[str, Any]:
    """Median seconds until harm is found, beside the oracle on the same traffic."""
    told = {}
    for number, (base, rate_ratio, seconds, limit_s) in enumerate(
        [(0.01, 4, 900, 300), (0.005, 4, 1500, 500), (0.005, 20, 300, 40)]
    ):
        random = np.random.default_rng([9, number])
        seen = independent(random, (rollouts, seconds), 0.01, (base * rate_ratio, base))
        ours = median_s(evidence(seen) >= LIMIT)
        best = median_s(oracle(seen, rate_ratio) >= -math.log(ALPHA))
        told[f"{rate_ratio}x on {base:.1%} at 1%"] = {
            "median_s": ours,
            "oracle_median_s": best,
            "ratio": ours / best,
            "limit_s": limit_s,
            "rollouts": rollouts,
        }
    return told


def latency(rollouts: int) -> dict[str, Any]:
    """Median seconds until the shipped latency gate fails; lognormal times, 10 % weight."""
    told = {}
    size = len(LATENCY_EDGES_MS) + 1
    for number, (name, factor, tail) in enumerate(
        [("equal", 1.0, 1.0), ("all doubled", 2.0, 1.0), ("slowest 1% doubled", 1.0, 2.0)]
    ):
        found = []
        for seed in range(rollouts):
            random = np.random.default_rng([21, number, seed])
            counts = [np.zeros(size, int), np.zeros(size, int)]
            at = math.inf
            for second in range(1, 121):
                for side, share in ((0, 0.9), (1, 0.1)):
                    times = 100 * np.exp(0.5 * random.standard_normal(random.poisson(RATE * share)))
                    if side:
                        slow = times > 100 * math.exp(0.5 * scipy_stats.norm.isf(0.01))
                        times = times * factor * np.where(slow, tail, 1.0)
                    buckets = np.searchsorted(LATENCY_EDGES_MS, times)
                    counts[side] += np.bincount(buckets, minlength=size)
                sides = [Tally(requests=int(c.sum()), latency=tuple(c.tolist())) for c in counts]
                known = Evidence(stable=sides[0], candidate=sides[1])
                if gates._latency(LatencyGate(), known).verdict == "fail":
                    at = float(second)
                    break
            found.append(at)
        told[name] = {
            "median_s": finite(float(np.median(found))),
            "found": sum(math.isfinite(at) for at in found),
            "rollouts": rollouts,
        }
    return told


def median_s(found: Any) -> float:
    """Median time of the first True of each row; infinity where there is none."""
    return float(np.median(np.where(found.any(axis=1), found.argmax(axis=1) + 1.0, math.inf)))


def finite(value: float) -> float | None:
    """JSON has no infinity: None is "not in the time that was simulated"."""
    return value if math.isfinite(value) else None


def sparse(rollouts: int) -> dict[str, Any]:
    """A healthy candidate at 60 requests per check, 0.5 % errors, beside the usual gates."""
    random = np.random.default_rng(11)
    told: dict[str, Any] = {}
    for name, checks, failures in (("10 checks, 2 fail", 10, 2), ("25 checks, 10 fail", 25, 10)):
        alarms = usual = 0
        for begin in range(0, rollouts, CHUNK):
            size = (min(CHUNK, rollouts - begin), 60 * checks)
            n1 = np.ones(size, int)
            n0 = np.full(size, 9)
            seen = n1, random.binomial(n1, 0.005), n0, random.binomial(n0, 0.005)
            alarms += int((evidence(seen) >= LIMIT).any(axis=1).sum())
            usual += int(threshold_gate(seen, checks=checks, failures=failures).sum())
        told[name] = {
            "e_process": counted(alarms, rollouts, ALPHA),
            "threshold_1%": usual / rollouts,
        }
    return told


def splits(rollouts: int) -> dict[str, Any]:
    """False alarms of the split check over 500 looks, beside a repeated chi-squared test."""
    random = np.random.default_rng(12)
    alarms = naive = 0
    for begin in range(0, rollouts, CHUNK):
        size = (min(CHUNK, rollouts - begin), 500)
        candidate = random.binomial(20, 0.05, size=size).cumsum(axis=1)
        units = np.arange(1, 501) * 20
        counts = np.stack([units - candidate, candidate], axis=-1)
        alarms += int((srm.log_e(counts, [0.95, 0.05]) >= math.log(1000)).any(axis=1).sum())
        z = (candidate - 0.05 * units) / np.sqrt(units * 0.05 * 0.95)
        naive += int((2 * scipy_stats.norm.sf(abs(z)) < 0.001).any(axis=1).sum())
    return {"sequential": counted(alarms, rollouts, 0.001), "chi_squared": naive / rollouts}


def measure(*, small: bool) -> dict[str, Any]:
    """Everything, as it goes into the results file."""
    rollouts, processes = (400, 1) if small else (20_000, len(os.sched_getaffinity(0)))
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "detection": lambda: detection(100 if small else 1_000),
        "latency": lambda: latency(2 if small else 100),
        "false_alarms": lambda: false_alarms(
            rollouts, 200 if small else 300, processes, ("5%",) if small else tuple(SHARES)
        ),
        "units": lambda: of_units(50 if small else 1_000),
        "sparse": lambda: sparse(rollouts),
        "split": lambda: splits(2_000 if small else 20_000),
        "compared": lambda: rollouts_whole.compared(5 if small else 1_000, processes),
        "through_decide": lambda: rollouts_whole.through_decide(6 if small else 2_000, processes),
    }
    told = {}
    for name, part in parts.items():
        began = time.monotonic()
        told[name] = part()
        progress(f"{name}: {time.monotonic() - began:.0f} s")
    return told


def failures(told: dict[str, Any]) -> list[str]:
    """What does not hold: levels exceeded for sure, and detection that comes too late."""
    levels = {
        **{name: item["e_process"] for name, item in told["false_alarms"]["claimed"].items()},
        **{name: item["e_process"] for name, item in told["sparse"].items()},
        "split": told["split"]["sequential"],
        "through decide": told["through_decide"],
        "compared": told["compared"],
    }
    late = [
        name
        for name, item in told["detection"].items()
        if item["median_s"] > item["limit_s"] or item["ratio"] > 1.5
    ]
    slow = told["latency"]["all doubled"]["median_s"]
    if slow is None or slow > 60:
        late.append("all doubled")
    return [name for name, item in levels.items() if not item["holds"]] + late


def main() -> int:
    """Measure, print, write; return 1 if something does not hold."""
    began = time.monotonic()
    told = measure(small="--small" in sys.argv)
    result = {
        "command": "make prove-rollouts",
        "commit": results.commit(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "seconds": round(time.monotonic() - began, 1),
        "failures": failures(told),
        **told,
    }
    print(json.dumps(result, indent=2))
    if "--small" not in sys.argv:
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
