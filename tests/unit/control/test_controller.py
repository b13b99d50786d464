"""Whole rollouts against fakes: synthetic traffic in, decisions and order of actions out."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from heliostat.control import commands
from heliostat.control.application import hindrance
from heliostat.control.controller import LEASE_TTL_S, Controller
from heliostat.errors import ConfigError
from heliostat.rollout.plan import RolloutPlan
from heliostat.store.events import EventLog
from heliostat.store.leases import LeaseLost, Leases
from heliostat.store.outcomes import Outcomes
from heliostat.testing.clock import Clock
from heliostat.testing.plane import FakePlane, FakeVersions
from heliostat.testing.traffic import Behaviour, Traffic

GOOD = Behaviour(noise=0.3)
WORSE_FIT = Behaviour(noise=0.8)
SHUFFLED = Behaviour(informed=False)
PLAN = RolloutPlan(model="m", candidate="2").to_dict()


@dataclass
class World:
    """A platform of fakes around one real state database."""

    path: str
    behaviours: dict[str, Behaviour]
    wrap: Callable[[EventLog], Any] = lambda log: log
    requests_per_s: float = 250.0
    clock: Clock = field(default_factory=Clock)
    plane: FakePlane = field(default_factory=FakePlane)
    versions: FakeVersions = field(default_factory=FakeVersions)

    def __post_init__(self):
        self.traffic = Traffic(self.behaviours, seed=7, requests_per_s=self.requests_per_s)
        self.number = 0
        self.controller = self.begin()

    def begin(self) -> Controller:
        """A new controller process; the one before is gone or cut off."""
        self.number += 1
        self.controller = Controller(
            self.wrap(EventLog(self.path, clock=self.clock)),
            Leases(self.path),
            self.plane,
            self.versions,
            holder=f"process-{self.number}",
            clock=self.clock,
            outcomes=Outcomes(self.path),
        )
        while not self.controller.lead():
            self.clock.advance(1.0)
        return self.controller

    def settle(self):
        """Let the controller do all that it can do now."""
        for _ in range(50):
            assert self.controller.lead()
            if not any(self.controller.step(model) for model in self.controller.models()):
                return
        raise AssertionError("the controller never rests")

    def deploy(self, version):
        self.controller.record("m", "deployment.requested", {"version": version})
        self.settle()

    def second(self):
        """One second of traffic, then the controller's turn."""
        policy = self.plane.policy
        report, labels = self.traffic.second(policy.models["m"], policy.epoch)
        self.clock.advance(1.0)
        self.controller.report([report])
        self.controller.label(labels)
        self.settle()

    def run(self, limit_s):
        """Let seconds pass until the rollout has ended; returns how many that took."""
        for second in range(limit_s):
            if self.controller.state("m").current is None:
                return second
            self.second()
        raise AssertionError(f"not ended after {limit_s} s: {self.last()}")

    def last(self):
        (rollout,) = list(self.controller.state("m").rollouts.values())[-1:]
        return rollout


@pytest.fixture
def world(tmp_path):
    def make(candidate, stable=WORSE_FIT):
        world = World(str(tmp_path / "state.db"), {"1": stable, "2": candidate, "3": stable})
        world.deploy("1")
        return world

    return make


def test_a_healthy_candidate_is_promoted_through_every_step(world):
    """At the demo's rate: 250 requests a second, decided well within its 110 seconds."""
    it = world(GOOD)
    commands.start(it.controller, PLAN, None)

    seconds = it.run(110)

    assert it.plane.calls == [
        "publish 1: m@1=100%",
        "start m@2",
        "publish 2: m@1=95% m@2=5%",
        "publish 3: m@1=75% m@2=25%",
        "publish 4: m@1=50% m@2=50%",
        "publish 5: m@1=0% m@2=100%",
        "publish 6: m@2=100%",
        "stop m@2",
    ]
    assert (it.last().outcome, it.controller.state("m").stable) == ("promoted", "2")
    assert seconds <= 60
    for thread in threading.enumerate():
        if thread.name.startswith("announce-"):
            thread.join()
    assert (it.versions.candidates, it.versions.stable) == ([("m", "2")], {"m": "2"})


@pytest.mark.parametrize(
    ("candidate", "gate", "limit_s"),
    [
        (SHUFFLED, "loss", 30),
        (Behaviour(error_ratio=0.2), "errors", 45),
        (Behaviour(latency_ms=40.0), "latency", 30),
    ],
)
def test_a_bad_candidate_is_rolled_back_for_the_right_reason(world, candidate, gate, limit_s):
    """It never leaves the first step, and its traffic goes before its capacity."""
    it = world(candidate, stable=GOOD)
    commands.start(it.controller, PLAN, None)

    seconds = it.run(limit_s)

    assert it.last().outcome == "rolled_back"
    assert it.last().because.startswith(f"{gate}: ")
    assert it.plane.calls == [
        "publish 1: m@1=100%",
        "start m@2",
        "publish 2: m@1=95% m@2=5%",
        "publish 3: m@1=100%",
        "stop m@2",
    ]
    assert seconds <= limit_s


def test_without_traffic_nothing_moves_and_in_the_end_stable_returns(world):
    """Time alone promotes nothing."""
    it = world(GOOD)
    commands.start(it.controller, {**PLAN, "max_inconclusive_s": 60}, None)
    for _ in range(64):
        it.clock.advance(1.0)
        it.settle()

    assert it.last().outcome == "rolled_back"
    assert it.last().because.startswith("no verdict at 5 % within 60 s: 0 of 300 requests")
    assert it.plane.share("m", "1") == 1.0


def test_a_candidate_that_does_not_start_never_gets_traffic(world):
    """Three attempts, then the rollout ends where it began."""
    it = world(GOOD)
    commands.start(it.controller, PLAN, None)
    it.versions.down = True
    for _ in range(4):
        it.settle()
        it.clock.advance(3.0)

    assert it.last().outcome == "rolled_back"
    assert it.last().because == ("the candidate does not start: registry: does not answer")
    assert it.plane.calls == ["publish 1: m@1=100%", "publish 2: m@1=100%"]


def test_rollouts_count_from_one_and_the_models_name_means_its_newest(world):
    """Events between two rollouts leave no gap; a model without one is told how to find some."""
    it = world(GOOD)
    commands.start(it.controller, PLAN, None)
    first = commands.find(it.controller, "m").rollout_id
    commands.abort(it.controller, "m", "no more", None)
    it.run(10)
    second = commands.start(it.controller, PLAN, None).rollout_id

    assert (first, second) == ("m-1", "m-2")
    assert commands.find(it.controller, "m").rollout_id == "m-2"
    assert commands.find(it.controller, "m-1").outcome == "aborted"
    with pytest.raises(commands.NotFound, match="or a model that had one"):
        commands.find(it.controller, "n")


def test_a_deployment_ends_a_running_rollout_first(world):
    """The newly deployed version is the only one that answers in the end."""
    it = world(GOOD)
    commands.start(it.controller, PLAN, None)
    it.settle()
    it.deploy("3")
    it.clock.advance(3.0)
    it.settle()

    assert it.last().because == "aborted: version 3 is deployed at once"
    assert it.controller.state("m").stable == "3"
    assert it.plane.calls[-3:] == ["publish 3: m@1=100%", "stop m@2", "publish 4: m@3=100%"]


def test_a_version_that_gateways_cannot_load_gives_way_to_the_one_before(world):
    """The policy must not name a version that a restarted gateway could not load."""
    it = world(GOOD)
    it.plane.never_ready = frozenset({"3"})
    it.deploy("3")
    it.clock.advance(91.0)
    it.settle()

    assert it.controller.state("m").stable == "1"
    assert it.plane.share("m", "1") == 1.0


def test_a_second_controller_takes_over_and_the_first_can_write_nothing(world):
    """The stale one still thinks that it leads."""
    it = world(GOOD)
    stale = it.controller
    it.clock.advance(LEASE_TTL_S + 1)
    it.begin()

    with pytest.raises(LeaseLost):
        commands.start(stale, PLAN, None)
    assert it.controller.state("m").current is None


class Killed(BaseException):
    """Stands for SIGKILL: nothing handles it."""


@dataclass
class Deadly:
    """An event log whose process dies right before or after its n-th append, once."""

    countdown: int
    after: bool
    log: EventLog | None = None

    def __call__(self, log):
        self.log = log
        return self

    def append(self, *args, **more):
        self.countdown -= 1
        if self.countdown == 0 and not self.after:
            raise Killed
        event = self.log.append(*args, **more)
        if self.countdown == 0:
            raise Killed
        return event

    def __getattr__(self, name):
        return getattr(self.log, name)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("candidate", [GOOD, Behaviour(error_ratio=0.2)], ids=["good", "bad"])
def test_a_crash_at_any_append_converges_to_the_same_end(tmp_path, candidate, after):
    """Killed at every durable write in turn; the new process ends where the old one would have."""
    plan, key = {**PLAN, "steps_percent": [50, 100]}, "the same request again"
    ends, kills = set(), 0
    for countdown in itertools.count(1):
        deadly = Deadly(countdown, after)
        it = World(
            str(tmp_path / f"{countdown}.db"),
            {"1": WORSE_FIT, "2": candidate},
            wrap=deadly,
            requests_per_s=400.0,
        )
        killed = _killed(lambda it=it: it.deploy("1"))
        if killed:
            it.begin()
            if it.controller.state("m").version == 0:
                it.deploy("1")
            it.settle()
        if _killed(lambda it=it: commands.start(it.controller, plan, key)):
            killed = True
            it.begin()
            commands.start(it.controller, plan, key)
        if _killed(lambda it=it: it.run(60)):
            killed = True
            it.begin()
            it.run(60)
        stable = it.controller.state("m").stable
        ends.add(
            (it.last().outcome, stable, it.plane.share("m", stable), frozenset(it.plane.running))
        )
        appended = sum(deadly.log.verify(name) for name in deadly.log.streams())
        kills += killed
        if not killed:
            break

    good = candidate is GOOD
    assert ends == {("promoted" if good else "rolled_back", "2" if good else "1", 1.0, frozenset())}
    assert kills == appended, "each append of the uninterrupted run was killed once"


def _killed(act):
    try:
        act()
    except Killed:
        return True
    return False


def test_a_lost_plane_is_given_the_policy_again(world):
    """The actor that gateways listen to has restarted empty."""
    it = world(GOOD)
    it.plane.policy = None

    it.controller.republish()

    assert it.plane.share("m", "1") == 1.0


def test_a_candidate_that_went_with_the_cluster_is_started_again(world):
    """The whole platform was down in the middle of a rollout; it goes on where it was."""
    it = world(GOOD)
    commands.start(it.controller, PLAN, None)
    while it.plane.share("m", "2") < 0.5:
        it.second()
    before = it.plane.policy
    it.plane.running.clear()
    it.plane.policy = None
    it.plane.calls.clear()

    it.begin()
    it.settle()

    assert it.plane.calls[0] == "start m@2"
    assert it.plane.policy == before
    it.run(60)
    assert it.last().outcome == "promoted"


def test_a_plane_that_is_down_stops_nothing_for_good(world):
    """The rollback is decided while nothing can be published; it happens once that is possible."""
    it = world(Behaviour(error_ratio=0.2), stable=GOOD)
    commands.start(it.controller, PLAN, None)
    it.settle()
    it.plane.down = True
    for _ in range(40):
        it.second()
    assert (it.last().outcome, it.plane.share("m", "2")) == ("rolled_back", 0.05)

    it.plane.down = False
    it.run(10)

    assert it.plane.share("m", "1") == 1.0


def test_no_rollout_begins_on_one_file_and_several_nodes(tmp_path):
    """The controller may start again on another machine, and SQLite is safe on one only."""
    it = World(str(tmp_path / "state.db"), {"1": GOOD, "2": GOOD})
    nodes = [3]
    it.controller.hindrance = lambda: hindrance(it.path, nodes[-1])
    it.controller.record("m", "deployment.requested", {"version": "1"})
    it.controller.step("m")

    with pytest.raises(ConfigError, match=r"must be a PostgreSQL URL where Ray has 3 nodes"):
        commands.start(it.controller, PLAN, None)

    nodes.append(1)
    assert commands.start(it.controller, PLAN, None).rollout_id == "m-1"
    assert hindrance("postgresql+psycopg://a@b/c", 3) is None
