"""The main job is stopped in a stage; one that is killed is in test_pipeline.py."""

from __future__ import annotations

import signal

import pytest

from tests.e2e.conftest import LivePlatform
from tests.e2e.interruptions import interrupt

pytestmark = pytest.mark.timeout(600)


def test_ctrl_c_stops_the_job_and_says_what_still_runs(live_platform: LivePlatform) -> None:
    """Exit 130 within 10 seconds."""
    stopped = interrupt(
        live_platform, "train candidate", signal.SIGINT,
        ["--recipe", "jobs.flights:small", "--set", "candidate.training.seed=6"],
    )  # fmt: skip

    assert stopped.exit_code == 130, stopped.output
    assert stopped.seconds < 10
    assert "the platform is still up" in stopped.output
