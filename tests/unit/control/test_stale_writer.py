"""Two controllers at once: wherever the first one is overtaken, it can write nothing more."""

from __future__ import annotations

import pytest

from heliostat.control import commands
from heliostat.control.controller import LEASE, LEASE_TTL_S
from heliostat.store.events import EventLog
from heliostat.store.leases import LeaseLost, Leases
from heliostat.store.schema import Database
from tests.unit.control.test_controller import GOOD, WORSE_FIT, World

PLAN = {"model": "m", "candidate": "2", "steps_percent": [50, 100], "bake_s": 3.0}


class Lost(Exception):
    """The first controller has seen that it does not lead."""


def live(it):
    """The first controller's whole life, until it is refused."""
    try:
        it.deploy("1")
        commands.start(it.controller, PLAN, "the plan")
        it.run(60)
    except LeaseLost as refusal:
        raise Lost from refusal
    except AssertionError as refusal:
        # A refused renewal is told by `lead`, which the world asserts.
        if it.controller.leads:
            raise
        raise Lost from refusal


def events(path):
    log = EventLog(path)
    found = [(name, log.verify(name)) for name in log.streams()]
    log.close()
    return found


def overtaken(path, point):
    """Let another controller take the lease right before the given durable write."""
    it, calls, known = world(path), 0, []

    def hook(moment):
        nonlocal calls
        calls += moment == "before"
        if calls == point and moment == "before":
            Database.write_hook = None
            it.clock.advance(LEASE_TTL_S + 1)
            assert Leases(path).acquire(LEASE, "other", LEASE_TTL_S, it.clock()) is not None
            known.extend(events(path))

    Database.write_hook = hook
    try:
        live(it)
    except Lost:
        return it, known
    finally:
        Database.write_hook = None
    raise AssertionError(f"the write at point {point} was not refused")


def world(path):
    return World(str(path), {"1": WORSE_FIT, "2": GOOD}, requests_per_s=1_500.0)


def points(folder):
    """Durable writes of an uninterrupted life."""
    it, count = world(folder / "whole.db"), 0

    def hook(moment):
        nonlocal count
        count += moment == "before"

    Database.write_hook = hook
    try:
        live(it)
    finally:
        Database.write_hook = None
    return count


def refused(folder, every):
    number, found = points(folder), 0
    for point in range(1, number + 1, every):
        path = str(folder / f"{point}.db")
        it, known = overtaken(path, point)
        assert events(path) == known, f"point {point}: something was written after the lease"
        it.begin()
        if it.controller.state("m").stable is None:
            it.deploy("1")
        commands.start(it.controller, PLAN, "the plan")
        it.run(60)
        assert (it.last().outcome, it.controller.state("m").stable) == ("promoted", "2")
        it.controller.log.close()
        found += 1
    return number, found


def test_a_stale_writer_is_refused_at_some_points(tmp_path):
    """Each tenth durable write of a whole rollout."""
    number, found = refused(tmp_path, every=10)
    assert number > 20
    assert found >= number // 10


@pytest.mark.proof
@pytest.mark.timeout(1_800)
def test_a_stale_writer_is_refused_at_every_point(tmp_path):
    """Each durable write of a whole rollout, renewals of the lease included; counted."""
    number, found = refused(tmp_path, every=1)
    assert found == number > 20
