"""How long a plan takes at the least, and whether it can reach its sample sizes at all."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from heliostat.config import require
from heliostat.rollout.plan import RolloutPlan
from heliostat.stats import means, proportions


@dataclass(frozen=True, kw_only=True, slots=True)
class StepForecast:
    """One step, if the candidate is as good as stable and makes no errors."""

    percent: float
    requests_needed: int
    """Candidate requests that this step waits for, those that the errors gate needs included."""

    seconds: float
    """The least time at this step."""

    in_time: bool
    """Whether that is within the plan's bound, after which stable takes all back."""


def forecast(plan: RolloutPlan, requests_per_s: float) -> tuple[StepForecast, ...]:
    """Least time of each step at this traffic; errors, starting and labels only add to it.

    Args:
        plan: The plan. An A/B test is counted as if each request came from a unit of its own.
        requests_per_s: Requests of the model, all versions together, above 0.

    Raises:
        ConfigError: The traffic is not above 0.

    >>> [step.seconds for step in forecast(RolloutPlan(model="m", candidate="2"), 240.0)]
    [26.0, 5.0, 2.5, 1.3]
    """
    require(0 < requests_per_s < math.inf, "requests_per_s", requests_per_s, "must be above 0")
    steps, had, pairs = [], 0.0, 0.0
    for percent in plan.steps_percent:
        # At 0 percent every row is scored by both, and no errors or times are judged.
        rate = requests_per_s * (percent or 100.0) / 100
        judged = _without_errors(plan) - had if percent else 0
        needed = max(plan.min_requests_per_step, judged)
        if plan.comparison is not None:
            needed = plan.comparison.units_needed(percent / 100) * percent / 100
        seconds = max(needed / rate, plan.hold_s)
        if plan.loss is not None:
            seconds = max(seconds, (means.BURN_IN - pairs) / requests_per_s)
        pairs += seconds * requests_per_s
        had += seconds * rate if percent else 0
        steps.append(
            StepForecast(
                percent=percent,
                requests_needed=math.ceil(needed),
                seconds=math.ceil(seconds * 10) / 10,
                in_time=seconds <= plan.max_inconclusive_s,
            )
        )
    return tuple(steps)


def warnings(plan: RolloutPlan, requests_per_s: float) -> list[str]:
    """What the plan will not reach at this traffic, in words; empty if it may reach all."""
    return [
        f"{step.percent:g} % needs {step.requests_needed:,} candidate requests, which takes "
        f"{step.seconds:,.0f} s at {requests_per_s:g} requests/s; after "
        f"{plan.max_inconclusive_s:,.0f} s stable takes all back"
        for step in forecast(plan, requests_per_s)
        if not step.in_time
    ]


def resources(plan: RolloutPlan) -> list[str]:
    """What a rollout by this plan uses beside the stable version, in words."""
    used = [f"an app of its own for version {plan.candidate}: one process, no CPU reserved"]
    if plan.twin:
        used.append("an app of its own for a twin of the stable version, likewise")
    if plan.paired:
        used.append("a second scoring of each row, after the answer is sent")
    if plan.bake_s > 0:
        used.append(f"both versions in each gateway's memory for {plan.bake_s:g} s of bake")
    return used


def words(steps: tuple[StepForecast, ...]) -> list[str]:
    """The forecast as lines for people, with a warning for each step that ends too late."""
    lines = []
    for step in steps:
        lines.append(
            f"{step.percent:5g} %  {step.requests_needed:,} candidate requests, "
            f"at least {step.seconds:,.1f} s"
        )
        if not step.in_time:
            lines.append(
                "         warning: later than max_inconclusive_s, so stable takes all back"
            )
    lines.append(f"in all at least {sum(step.seconds for step in steps):,.1f} s")
    return lines


def to_dict(steps: tuple[StepForecast, ...]) -> dict[str, Any]:
    """Plain JSON values."""
    return {
        "steps": [asdict(step) for step in steps],
        "seconds": round(sum(step.seconds for step in steps), 1),
        "in_time": all(step.in_time for step in steps),
    }


def _without_errors(plan: RolloutPlan) -> int:
    """Requests without any error after which the errors gate passes, by bisection."""
    if plan.errors is None:
        return 0
    low, high = 0, 1
    while not _passes(plan, high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _passes(plan, middle) else (middle, high)
    return high


def _passes(plan: RolloutPlan, requests: int) -> bool:
    assert plan.errors is not None
    _, high = proportions.bounds(0, requests, plan.errors.alpha / 2)
    return float(high) <= plan.errors.margin_ratio
