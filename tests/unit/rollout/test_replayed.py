"""A recorded log through the decision again: identical, unless something was changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from heliostat.control import commands
from heliostat.rollout import replayed
from heliostat.rollout.plan import RolloutPlan
from heliostat.testing.traffic import Behaviour
from tests.unit.control.test_controller import GOOD, WORSE_FIT, World

PLAN = RolloutPlan(model="m", candidate="2").to_dict()


@pytest.mark.parametrize(
    ("candidate", "decisions"), [(GOOD, 5), (Behaviour(error_ratio=0.2), 2)], ids=["good", "bad"]
)
def test_a_recorded_rollout_is_decided_again_just_so(tmp_path, candidate, decisions):
    """Every step and the outcome, with the words; a changed step is found."""
    it = World(str(tmp_path / "state.db"), {"1": WORSE_FIT, "2": candidate})
    it.deploy("1")
    commands.start(it.controller, PLAN, None)
    it.run(110)
    events = it.controller.log.read("model/m")

    assert replayed.check("m", events) == (decisions, [])

    changed = [
        replace(event, payload={**event.payload, "because": "I felt like it"})
        if event.kind == "rollout.outcome_decided"
        else event
        for event in events
    ]
    assert [item.version for item in replayed.check("m", changed)[1]] == [
        event.version for event in events if event.kind == "rollout.outcome_decided"
    ]
