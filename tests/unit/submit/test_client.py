from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from heliostat.errors import Interrupted, Unavailable
from heliostat.submit import client

LOG = "one\ntwo\nthree\nlast words\n"


@dataclass
class DroppingClient:
    """A Jobs API whose log stream begins anew and breaks off each time."""

    pieces: list[list[str]]
    num_streams: int = field(default=0)

    async def tail_job_logs(self, _submission_id: str) -> AsyncIterator[str]:
        self.num_streams += 1
        for piece in self.pieces.pop(0) if self.pieces else []:
            yield piece
        raise RuntimeError("WebSocket connection closed unexpectedly")

    def get_job_logs(self, _submission_id: str) -> str:
        return LOG


def test_a_dropped_log_stream_loses_and_repeats_nothing() -> None:
    """A stream that breaks off begins again from the top; each character is shown once."""
    jobs = DroppingClient(pieces=[["one\n", "tw"], ["one\ntwo\nth"], ["on"]])
    tail = client._LogTail(jobs, "x")  # type: ignore[arg-type]
    shown = ""
    deadline = time.monotonic() + 20
    while jobs.num_streams < 4 and time.monotonic() < deadline:
        shown += tail.take()
        time.sleep(0.02)
    shown += tail.take()
    assert shown == "one\ntwo\nth"
    assert shown + tail.finish() == LOG


def _details(status: str, code: int | None, message: str = "") -> Any:
    return SimpleNamespace(
        status=SimpleNamespace(value=status), driver_exit_code=code, message=message
    )


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [("SUCCEEDED", 0, 0), ("FAILED", 3, 3), ("FAILED", 1, 1), ("FAILED", -9, 137)],
)
def test_the_jobs_own_exit_code_is_given_back(status: str, code: int, expected: int) -> None:
    """A refused gate stays 3; a driver that was killed gives what a shell would."""
    assert client._exit_code(_details(status, code), "x") == expected


def test_a_job_that_never_ran_is_an_outside_problem() -> None:
    """No exit code: Ray's own reason is told, and the exit code is 4."""
    with pytest.raises(Unavailable) as caught:
        client._exit_code(_details("FAILED", None, "runtime_env setup failed\n"), "x")
    assert str(caught.value) == "job x: runtime_env setup failed"
    with pytest.raises(Interrupted, match="job x was stopped"):
        client._exit_code(_details("STOPPED", None), "x")


def test_the_command_by_hand_survives_quoting() -> None:
    """What is printed can be pasted, whatever the arguments hold."""
    assert client._by_hand(["jobs/a.py", "--set", "a=it's"], {"PYTHONPATH": "platform"}) == (
        'ray job submit --working-dir . --runtime-env-json \'{"env_vars":{"PYTHONPATH":'
        "\"platform\"}}' -- python jobs/a.py --set 'a=it'\"'\"'s'"
    )


def test_a_question_that_is_never_answered_is_given_up() -> None:
    """A line that is dead without a word must not hold the client for ever."""
    silent = threading.Event()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.05 s"):
        client._within(0.05, silent.wait)
    silent.set()
    assert client._within(5.0, lambda: 3) == 3
    with pytest.raises(OSError, match="refused"):
        client._within(5.0, _refused)


def _refused() -> int:
    raise OSError("refused")
