"""The main job is killed or stopped in a stage, and the next one goes on."""

from __future__ import annotations

import json
import signal

import pytest

from tests.e2e.conftest import LivePlatform
from tests.e2e.interruptions import interrupt, running_runs

pytestmark = pytest.mark.timeout(600)

SMALL = ("--recipe", "jobs.flights:small")


def test_ctrl_c_stops_the_job_and_says_what_still_runs(live_platform: LivePlatform) -> None:
    """Exit 130 within 10 seconds."""
    stopped = interrupt(
        live_platform, "train candidate", signal.SIGINT,
        [*SMALL, "--set", "candidate.training.seed=6"],
    )  # fmt: skip

    assert stopped.exit_code == 130, stopped.output
    assert stopped.seconds < 10
    assert "the platform is still up" in stopped.output


def test_after_a_killed_driver_the_next_run_ends_well(live_platform: LivePlatform) -> None:
    """Killed in the middle of the canary: the same command reuses every stage, replays the
    canary in full, and leaves no MLflow run RUNNING.
    """
    killed = interrupt(live_platform, "canary", signal.SIGKILL, SMALL)
    assert killed.exit_code not in {0, None}, killed.output

    again = live_platform.run("submit", *SMALL, "--", "jobs/pipeline.py", timeout_s=420)

    assert again.returncode == 0, again.stdout + again.stderr
    for stage in ("ingest", "features", "train stable", "train candidate", "register candidate"):
        assert f"[{stage}] reused: code, recipe and inputs are unchanged" in again.stdout
    assert running_runs(live_platform) == []
    newest = max(
        (live_platform.home / "reports").glob("*.json"), key=lambda path: path.stat().st_mtime
    )
    report = json.loads(newest.read_text())
    assert (report["requests"], report["failed"]) == (2964, 0)
