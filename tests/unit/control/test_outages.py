"""Prometheus, the registry or the store gone in the middle: nothing wrong is promoted meanwhile."""

from __future__ import annotations

from dataclasses import replace

import pytest
import sqlalchemy as sa

from heliostat.control import commands
from tests.unit.control.test_controller import GOOD, PLAN, WORSE_FIT, World
from tests.unit.postgres import Server

OUTAGE_S = 300
BAD = replace(GOOD, error_ratio=0.05)


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.remove()


def world(path, candidate):
    it = World(str(path), {"1": WORSE_FIT, "2": candidate}, requests_per_s=100.0)
    it.deploy("1")
    return it


def second_without_store(it):
    """One second of traffic; the loop logs what the store does not answer, and goes on."""
    policy = it.plane.policy
    report, labels = it.traffic.second(policy.models["m"], policy.epoch)
    it.clock.advance(1.0)
    for work in (lambda: it.controller.report([report]), it.settle):
        with pytest.raises(sa.exc.OperationalError):
            work()
    it.controller.label(labels)


@pytest.mark.parametrize("candidate", [GOOD, BAD])
def test_the_registry_down_for_five_minutes_changes_no_verdict(tmp_path, candidate):
    """It is asked before a rollout begins and told after it ended, never between."""
    it = world(tmp_path / "state.db", candidate)
    commands.start(it.controller, PLAN, None)
    it.second()
    it.versions.down = True
    for _ in range(OUTAGE_S):
        if it.controller.state("m").current is None:
            break
        it.second()

    assert it.last().outcome == ("promoted" if candidate is GOOD else "rolled_back")


@pytest.mark.parametrize("candidate", [GOOD, BAD])
def test_a_real_postgres_that_is_stopped_in_the_middle_moves_nothing(server, candidate):
    """The server's process is gone for five minutes of the rollout's clock, then back."""
    it = world(server.new_database(), candidate)
    commands.start(it.controller, PLAN, None)
    for _ in range(3):
        it.second()
    before = it.plane.policy
    server.stop()
    for _ in range(OUTAGE_S):
        second_without_store(it)
    assert it.plane.policy == before
    server.start()
    it.run(300)

    assert it.last().outcome == ("promoted" if candidate is GOOD else "rolled_back")
