"""Whole rollouts, simulated through `decide`: an equal candidate is left alone, a worse one is not."""

from __future__ import annotations

from heliostat.rollout.decide import DecideOutcome, decide
from heliostat.rollout.gathered import Gathering
from heliostat.rollout.plan import RolloutPlan
from heliostat.rollout.policy import ModelPolicy, Variant
from heliostat.rollout.state import RolloutState
from heliostat.stats.slots import assign
from heliostat.testing.traffic import Behaviour, Traffic

CANDIDATE = Variant(
    version="2",
    role="candidate",
    placement="isolated",
    package_path="/p",
    package_digest="sha256:2",
    url="http://127.0.0.1:8000/variants/m/2",
)
STABLE = Variant(
    version="1",
    role="stable",
    placement="in_process",
    package_path="/p",
    package_digest="sha256:1",
)
STATE = RolloutState(
    rollout_id="r",
    plan=RolloutPlan(model="m", candidate="2", min_requests_per_step=10**9),
    stable="1",
    started_at=0.0,
    candidate=CANDIDATE,
    wanted_step=0,
    reached_step=0,
    step_epoch=1,
    step_since=0.0,
    shares={1: 0.25},
)
POLICY = ModelPolicy(
    model="m",
    variants=(STABLE, CANDIDATE),
    slots=assign(None, [0.75, 0.25]),
    rollout_id="r",
    paired=True,
)


def rolled_back_after(stable, candidate, seed, seconds):
    """Seconds until a rollback is decided; None if none is."""
    traffic = Traffic({"1": stable, "2": candidate}, requests_per_s=60, label_delay_s=1, seed=seed)
    gathering = Gathering(rollout_id="r", model="m", stable="1", candidate="2")
    for second in range(1, seconds + 1):
        report, labels = traffic.second(POLICY, 1)
        gathering.report(report, second)
        gathering.labels(labels, second)
        actions = decide(STATE, gathering.evidence(), float(second)).actions
        if actions == (DecideOutcome(outcome="rolled_back"),):
            return second
    return None


def test_a_candidate_just_like_stable_is_not_rolled_back():
    """60 requests a second, 0.5 % errors: where a usual threshold gate rolls back most."""
    same = Behaviour(error_ratio=0.005)

    assert [rolled_back_after(same, same, seed, 30) for seed in range(15)] == [None] * 15


def test_a_candidate_with_twenty_times_the_errors_leaves_within_seconds():
    """Every time."""
    times = [
        rolled_back_after(Behaviour(error_ratio=0.005), Behaviour(error_ratio=0.1), seed, 60)
        for seed in range(10)
    ]

    assert None not in times
    assert sorted(times)[5] <= 20
