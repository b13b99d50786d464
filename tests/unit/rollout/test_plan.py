from __future__ import annotations

import pytest

from heliostat.errors import ConfigError
from heliostat.rollout.allowed import ErrorsGate, LatencyGate, LossGate
from heliostat.rollout.plan import RolloutPlan

LEAST = {"model": "m", "candidate": "2"}


@pytest.mark.parametrize(
    "plan",
    [
        RolloutPlan(model="m", candidate="2"),
        RolloutPlan(
            model="m",
            candidate="2",
            steps_percent=(0.5, 100.0),
            errors=ErrorsGate(margin_ratio=0.1, alpha=0.05),
            latency=None,
            loss=LossGate(margin=0.0),
            optional=("loss",),
            salt="s",
        ),
    ],
)
def test_a_plan_survives_its_way_through_json(plan):
    """Whole values compare."""
    assert RolloutPlan.from_dict(plan.to_dict()) == plan


def test_missing_keys_take_their_defaults():
    """The model and the candidate are enough."""
    assert RolloutPlan.from_dict(LEAST) == RolloutPlan(model="m", candidate="2")
    assert RolloutPlan.from_dict({**LEAST, "latency": {"margin_ms": 5}}).latency == LatencyGate(
        margin_ms=5.0
    )


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "plan = []: must be a JSON object"),
        ({"model": "m"}, "plan.candidate = None: must be given"),
        (
            {**LEAST, "step_percent": [100]},
            "plan.step_percent = [100]: is not known; did you mean 'steps_percent'?",
        ),
        (
            {**LEAST, "errors": {"margin": 1}},
            "plan.errors.margin = 1: is not known; did you mean 'margin_ratio'?",
        ),
        ({**LEAST, "errors": {"alpha": "1"}}, "plan.errors.alpha = '1': must be a finite number"),
        (
            {**LEAST, "loss": {"alpha": 0.9}},
            "plan.loss.alpha = 0.9: must lie above 0 and be at most 0.2",
        ),
        (
            {**LEAST, "steps_percent": [5, 5, 100]},
            (
                "plan.steps_percent = (5.0, 5.0, 100.0): must rise at every step, from 0 or above to 100; "
                "5 follows 5"
            ),
        ),
        (
            {**LEAST, "steps_percent": [5, 50]},
            "plan.steps_percent = (5.0, 50.0): must end with 100; the last one is 50",
        ),
        ({**LEAST, "steps_percent": 5}, "plan.steps_percent = 5: must be a list"),
        ({**LEAST, "steps_percent": ["5"]}, "plan.steps_percent = '5': must be a finite number"),
        (
            {**LEAST, "optional": ["lost"]},
            "plan.optional = 'lost': must name a gate; did you mean 'loss'?",
        ),
        (
            {**LEAST, "optional": ["errors", "latency", "loss"]},
            (
                "plan.optional = ('errors', 'latency', 'loss'): must leave at least one gate that "
                "has to pass"
            ),
        ),
        (
            {**LEAST, "min_requests_per_step": 2.5},
            "plan.min_requests_per_step = 2.5: must be a whole number",
        ),
        ({**LEAST, "max_inconclusive_s": 0}, "plan.max_inconclusive_s = 0.0: must be above 0"),
        (
            {**LEAST, "latency": {"margin_ratio": 0.5}},
            "plan.latency.margin_ratio = 0.5: must be at least 1",
        ),
        ({**LEAST, "candidate": 2}, "plan.candidate = 2: must be text"),
    ],
)
def test_a_plan_that_cannot_be_meant_is_refused_when_built(raw, message):
    """Each with its place, its value, the rule, and the nearest right key."""
    with pytest.raises(ConfigError) as caught:
        RolloutPlan.from_dict(raw)
    assert str(caught.value) == message
