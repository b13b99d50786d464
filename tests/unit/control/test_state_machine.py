"""Random lives of rollouts against a small reference model: no order of events breaks a rule."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from heliostat.control import commands
from heliostat.errors import ConfigError, Unavailable
from heliostat.rollout.decide import DRAIN_S, decide
from heliostat.rollout.known import Evidence
from heliostat.rollout.plan import RolloutPlan
from heliostat.testing.traffic import Behaviour
from tests.unit.control.test_controller import GOOD, World

STEPS = [25, 50, 100]
SHARED_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Nothing here survives a power cut on purpose, and each write waits for its disk."""


class Rollouts(RuleBasedStateMachine):
    """Whatever is asked, crashes or goes down, the reference below says what must hold."""

    steps = 0
    """Rules carried out so far, over all lives."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=SHARED_MEMORY)
        self.it = World(
            str(Path(self.folder.name) / "state.db"),
            {"1": GOOD, "2": GOOD, "3": Behaviour(error_ratio=0.5)},
            requests_per_s=400.0,
        )
        self.it.deploy("1")
        self.keys = itertools.count()
        # The reference: what a person would note on paper.
        self.frozen = self.paused = self.aborted = False
        self.percents: dict[str, list[float]] = {}

    def teardown(self):
        self.it.controller.log.close()
        self.folder.cleanup()

    @property
    def state(self):
        return self.it.controller.state("m")

    @precondition(lambda self: self.state.stable != "2")
    @rule(
        version=st.sampled_from(["2", "3"]),
        hold_s=st.sampled_from([0.0, 5.0]),
        bake_s=st.sampled_from([0.0, 6.0]),
    )
    def start(self, version, hold_s, bake_s):
        Rollouts.steps += 1
        plan = {
            **RolloutPlan(model="m", candidate=version, hold_s=hold_s, bake_s=bake_s).to_dict(),
            "steps_percent": STEPS, "min_requests_per_step": 50, "loss": None,
        }  # fmt: skip
        refused = self.frozen or self.state.current is not None
        try:
            commands.start(self.it.controller, plan, f"start-{next(self.keys)}")
        except commands.Busy:
            assert refused
        else:
            assert not refused
            self.paused = self.aborted = False

    @precondition(lambda self: self.state.rollout is not None)
    @rule(what=st.sampled_from(["pause", "resume", "promote", "approve"]))
    def tell(self, what):
        Rollouts.steps += 1
        rollout = self.state.rollout
        refused = rollout.outcome is not None or (
            what == "approve" and rollout.reached_step is None
        )
        try:
            commands.tell(self.it.controller, rollout.rollout_id, what, "why", None)
        except commands.Busy:
            assert refused
        else:
            assert not refused
            self.paused = {"pause": True, "resume": False}.get(what, self.paused)

    @precondition(lambda self: self.state.rollout is not None)
    @rule()
    def abort(self):
        Rollouts.steps += 1
        rollout = self.state.rollout
        commands.abort(self.it.controller, rollout.rollout_id, "why", None)
        self.aborted = self.aborted or rollout.outcome is None

    @rule(on=st.booleans())
    def freeze(self, on):
        Rollouts.steps += 1
        commands.freeze(self.it.controller, "m", "holidays" if on else None, None)
        self.frozen = on

    @rule(seconds=st.integers(1, 4))
    def traffic(self, seconds):
        Rollouts.steps += 1
        for _ in range(seconds):
            before = self._moved()
            self.it.second()
            rollout = self.it.last() if self.state.rollouts else None
            if rollout is not None and (self.paused or self.frozen) and rollout.outcome is None:
                assert before is None or self._moved() == before, "it moved while it was held"

    @rule()
    def silence(self):
        Rollouts.steps += 1
        self.it.clock.advance(DRAIN_S + 1)
        self.it.settle()

    @rule()
    def crash(self):
        Rollouts.steps += 1
        self.it.clock.advance(6.0)
        self.it.begin()
        self.it.settle()

    @precondition(lambda self: self.it.plane.policy is not None)
    @rule()
    def plane_down(self):
        Rollouts.steps += 1
        self.it.plane.down = True
        # The loop logs it and asks again at its next turn.
        with contextlib.suppress(Unavailable):
            self.it.second()
        self.it.plane.down = False
        self.it.settle()

    @rule()
    def go_back(self):
        """On paper: from 2 to 1, and from a bake of 2 too; there is nothing else to go back to."""
        Rollouts.steps += 1
        rollout = self.state.rollout
        baking = rollout is not None and rollout.bake_decided
        try:
            commands.go_back(
                self.it.controller, "m", None, because="why", by="ada", wait_s=1.0,
                wake=self._wait, pause=lambda _: self._wait(),
            )  # fmt: skip
        except ConfigError:
            assert self.state.stable == "1"
            assert not baking
        else:
            assert self.state.stable == "1"

    def _wait(self):
        self.it.clock.advance(1.0)
        self.it.settle()

    def _moved(self):
        rollout = self.state.rollout
        # A first step and one that was decided already are still carried out.
        return None if rollout is None or rollout.reached_step is None else rollout.wanted_step

    @invariant()
    def rules_hold(self):
        state, policy = self.state, self.it.plane.policy
        part = policy.models["m"]
        assert sum(part.share(index) for index in range(len(part.variants))) == 1
        baking = state.rollout is not None and state.rollout.phase == "baking"
        if baking:
            roles = [(variant.version, variant.role) for variant in part.variants]
            assert roles == [(state.rollout.plan.candidate, "stable"), (state.stable, "previous")]
            assert part.share(0) == 0.95
        if state.current is None:
            assert self.it.plane.share("m", state.stable) == 1.0
            assert self.it.plane.running == set()
        for rollout in state.rollouts.values():
            shares = [percent for _, percent in sorted(rollout.shares.items())]
            assert shares == [percent / 100 for percent in STEPS[: len(shares)]], "a step skipped"
            if rollout.outcome == "promoted":
                assert len(shares) == len(STEPS)
                assert rollout.plan.candidate == "2", "the bad one was promoted"
            if rollout.ended_at is not None and rollout.outcome != "promoted":
                assert rollout.plan.candidate == "2" or state.stable != "3"
        assert state.stable != "3"
        if self.aborted and state.rollouts:
            assert self.it.last().outcome in (None, "aborted")

    @invariant()
    def decisions_repeat(self):
        """The same state, evidence and time decide the same, also after JSON."""
        rollout = self.state.rollout
        if rollout is not None and rollout.paused is None:
            evidence = self.it.controller.evidence(rollout) or Evidence()
            again = Evidence.from_dict(evidence.to_dict())
            now = self.it.clock()
            assert decide(rollout, evidence, now) == decide(replace(rollout), again, now)


def lives(number):
    """So many lives of 30 steps each, the same ones every time."""
    return settings(
        max_examples=number,
        stateful_step_count=30,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


class TestRollouts(Rollouts.TestCase):
    settings = lives(15)


@pytest.mark.proof
@pytest.mark.timeout(1_800)
class TestManyRollouts(Rollouts.TestCase):
    settings = lives(400)

    def runTest(self):  # noqa: N802 - unittest names it
        Rollouts.steps = 0
        super().runTest()
        assert Rollouts.steps >= 10_000
