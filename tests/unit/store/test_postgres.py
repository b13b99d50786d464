"""The event log and its leases on a real PostgreSQL server, on loopback only."""

from __future__ import annotations

import threading

import pytest

from heliostat.store.events import Conflict, EventLog
from heliostat.store.leases import LeaseLost, Leases
from tests.unit.postgres import Server


@pytest.fixture(scope="module")
def url():
    """A server of its own with an empty database; stopped and removed at the end."""
    server = Server()
    yield server.url
    server.remove()


def test_concurrent_writers_leave_one_unbroken_chain(url):
    """Four connections append at once; no number is missing or taken twice."""

    def write():
        log = EventLog(url)
        for number in range(25):
            log.append("busy", "counted", {"number": number})
        log.close()

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    log = EventLog(url)

    assert log.verify("busy") == 100
    assert [event.version for event in log.read("busy")] == list(range(1, 101))
    log.close()


def test_the_log_keeps_its_promises_there_too(url):
    """Expected versions, idempotency keys and what is read back."""
    log = EventLog(url, clock=lambda: 1_800_000_000.123456)
    first = log.append("a", "made", {"x": 0.1, "text": "ö"}, idempotency_key="k")
    again = log.append("a", "made", {"x": 0.2}, idempotency_key="k")

    with pytest.raises(Conflict):
        log.append("a", "made", {}, expected_version=0)
    assert first == again == log.last("a")
    assert log.streams("a") == ["a"]
    log.close()


def test_a_stale_fence_is_refused_there_too(url):
    """The next holder's token is higher at once."""
    log, leases = EventLog(url), Leases(url)
    stale = leases.acquire("one", "first", 5.0, now=100.0)
    assert leases.acquire("one", "second", 5.0, now=101.0) is None
    fresh = leases.acquire("one", "second", 5.0, now=106.0)

    with pytest.raises(LeaseLost):
        log.append("b", "made", {}, fence=stale)
    assert log.append("b", "made", {}, fence=fresh).version == 1
    log.close()
