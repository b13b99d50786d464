"""Sums up the outcomes of both versions' units for an A/B test, as the policy split them."""

from __future__ import annotations

from typing import cast

import numpy as np

from heliostat.config import require, require_name
from heliostat.rollout import written
from heliostat.rollout.known import Compared
from heliostat.rollout.state import RolloutState
from heliostat.stats import units
from heliostat.stats.slots import slot
from heliostat.store.outcomes import Outcome, Outcomes

LOOKED_EVERY_S = 1.0
"""Outcomes are summed up anew after so long at the most."""


MAX_OUTCOMES = 10_000
"""In one call."""


def read(raw: object) -> list[Outcome]:
    """Read reported outcomes.

    Raises:
        ConfigError: Not a list of at most MAX_OUTCOMES, or one of them cannot be meant.
    """
    good = isinstance(raw, list) and len(raw) <= MAX_OUTCOMES
    require(good, "outcomes", str(raw)[:80], f"must be a list of at most {MAX_OUTCOMES:,}")
    found = [
        written.build(Outcome, item, f"outcomes[{number}]")
        for number, item in enumerate(cast("list[object]", raw))
    ]
    for item in found:
        require_name("outcomes.metric", item.metric)
    return found


class Comparisons:
    """Answers for each A/B test how its units fared; the split is the published one."""

    def __init__(self, outcomes: Outcomes) -> None:
        """Read from these outcomes."""
        self.outcomes = outcomes
        self._known: dict[str, tuple[float, Compared]] = {}

    def of(self, rollout: RolloutState, owners: bytes | None, now: float) -> Compared | None:
        """Sums of both versions; None where nothing is compared yet.

        Args:
            rollout: An A/B test.
            owners: The policy's slots, one byte each: 1 where the candidate answers.
            now: Outcomes that claim to be later are left out.
        """
        comparison = rollout.plan.comparison
        if comparison is None or rollout.step_since is None or owners is None:
            return None
        known = self._known.get(rollout.rollout_id)
        if known is not None and now - known[0] < LOOKED_EVERY_S:
            return known[1]
        model = rollout.plan.model
        found = self.outcomes.by_unit(model, comparison.metric, rollout.step_since, now)
        arms: tuple[list[tuple[float, float]], ...] = ([], [])
        for item in found:
            other = item.before if comparison.per == "unit" else float(item.events)
            arms[owners[slot(item.unit, model)] == 1].append((item.value, other))
        stable, candidate = (units.Sums.of(*np.array(arm, float).reshape(-1, 2).T) for arm in arms)
        compared = Compared(stable=stable, candidate=candidate)
        self._known[rollout.rollout_id] = (now, compared)
        return compared
