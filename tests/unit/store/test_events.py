from __future__ import annotations

import multiprocessing
import sqlite3
import threading

import pytest

from heliostat.errors import ConfigError
from heliostat.store.events import Conflict, EventLog, Tampered
from heliostat.store.leases import Fence, LeaseLost, Leases
from heliostat.testing.clock import Clock


@pytest.fixture
def log(tmp_path):
    return EventLog(tmp_path / "state.db", clock=Clock(100.0))


def test_events_are_read_back_in_order_by_another_handle(tmp_path, log):
    """What was appended is durable and numbered without gaps."""
    first = log.append("m", "a", {"x": [1, 2.5, None, "é"]})
    log.append("other", "b", {})
    second = log.append("m", "b", {})

    again = EventLog(tmp_path / "state.db")

    assert again.read("m") == [first, second]
    assert [event.version for event in again.read("m")] == [1, 2]
    assert again.read("m", after=1) == [second]
    assert again.last("m") == second
    assert again.last("none") is None
    assert again.streams() == ["m", "other"]
    assert (first.payload, first.at) == ({"x": [1, 2.5, None, "é"]}, 100.0)


def test_who_decided_on_an_older_state_is_refused(log):
    """Optimistic concurrency: decide again on what happened meanwhile."""
    log.append("m", "a", {}, expected_version=0)

    with pytest.raises(Conflict) as caught:
        log.append("m", "b", {}, expected_version=0)

    assert str(caught.value) == "stream m: expected version 0, but it is at 1"


def test_the_same_key_appends_once(log):
    """Even when the stream has moved on from the expected version since."""
    first = log.append("m", "a", {"n": 1}, expected_version=0, idempotency_key="k")
    again = log.append("m", "a", {"n": 2}, expected_version=0, idempotency_key="k")

    assert (again, log.find("m", "k"), len(log.read("m"))) == (first, first, 1)
    with pytest.raises(ConfigError) as caught:
        log.append("m", "b", {}, idempotency_key="k")
    assert str(caught.value) == "idempotency_key = 'k': was used for a before"


def test_a_stale_fence_is_refused_and_writes_nothing(tmp_path, log):
    """The old holder does not know yet that it lost the lease."""
    leases = Leases(tmp_path / "state.db")
    old = leases.acquire("l", "one", ttl_s=5, now=0)
    assert leases.acquire("l", "two", ttl_s=5, now=4.9) is None
    assert leases.acquire("l", "one", ttl_s=5, now=4.9) == old == Fence(name="l", token=1)
    new = leases.acquire("l", "two", ttl_s=5, now=20)

    log.append("m", "a", {}, fence=new)
    with pytest.raises(LeaseLost) as caught:
        log.append("m", "a", {}, fence=old)

    assert str(caught.value) == "lease l: token 1 is stale, the newest is 2"
    assert len(log.read("m")) == 1


def test_a_released_lease_is_free_at_once(tmp_path):
    """An orderly stop does not make the next one wait."""
    leases = Leases(tmp_path / "state.db")
    leases.acquire("l", "one", ttl_s=100, now=0)
    leases.release("l", "one")

    assert leases.acquire("l", "two", ttl_s=100, now=1) == Fence(name="l", token=2)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE events SET payload = '{\"n\":9}' WHERE version = 2",
        "UPDATE events SET at = 1.0 WHERE version = 3",
        "UPDATE events SET kind = 'z' WHERE version = 1",
        "DELETE FROM events WHERE version = 2",
        "DELETE FROM events WHERE version = 4",
        "DELETE FROM events",
        "UPDATE events SET version = CASE version WHEN 2 THEN -2 ELSE version END",
        "UPDATE events SET stream = 'other' WHERE version = 4",
    ],
)
def test_any_later_change_of_the_history_is_found(tmp_path, log, damage):
    """Edited, removed, moved or cut off."""
    for number in range(4):
        log.append("m", "a", {"n": number})
    assert log.verify("m") == 4
    with sqlite3.connect(tmp_path / "state.db") as connection:
        connection.execute(damage)
    connection.close()

    with pytest.raises(Tampered):
        log.verify("m")


def test_writers_in_many_threads_lose_nothing(tmp_path):
    """Each has a handle of its own; all wait for their turn."""

    def write(name):
        log = EventLog(tmp_path / "state.db")
        for number in range(20):
            log.append("m", "a", {"by": name, "n": number})

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    log = EventLog(tmp_path / "state.db")
    assert log.verify("m") == 80
    assert {(e.payload["by"], e.payload["n"]) for e in log.read("m")} == {
        (name, number) for name in range(4) for number in range(20)
    }


def _append_for_ever(path, told):
    log = EventLog(path)
    while True:
        told.put(log.append("m", "a", {"text": "x" * 2000}).version)


def test_what_was_acknowledged_survives_a_kill_at_any_moment(tmp_path):
    """SIGKILL in the middle of writing: the chain is whole, nothing confirmed is missing."""
    context = multiprocessing.get_context("spawn")
    for delay_s in (0.02, 0.07):
        told = context.SimpleQueue()
        writer = context.Process(target=_append_for_ever, args=(tmp_path / "state.db", told))
        writer.start()
        confirmed = told.get()
        writer.join(delay_s)
        writer.kill()
        writer.join()
        log = EventLog(tmp_path / "state.db")

        assert log.verify("m") >= confirmed
        log.append("m", "b", {})
        log.close()
