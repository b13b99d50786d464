"""Every run ends: after success, an error, an interrupt, a kill, and an absence of MLflow."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from heliostat.registry.tracking import Tracking
from heliostat.training import runs
from heliostat.training.spool import EPOCH, MetricLog, MetricSpool
from heliostat.training.warden import TAG, end_runs

DRIVER = """
import sys, time
from pathlib import Path
from heliostat.registry.tracking import Tracking
from heliostat.training import runs
from heliostat.training.spool import EPOCH, MetricLog
uri, storage = sys.argv[1], Path(sys.argv[2])
with runs.tracked(Tracking(uri), "exp", "n", {}, storage) as run_id:
    (storage / run_id).mkdir(parents=True)
    log = MetricLog(storage / run_id)
    log.add(EPOCH, 1, {"loss": 0.5}, 1000)
    log.flush()
    print(run_id, flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(1), "KILLED"),
        (ValueError(), "FAILED"),
    ],
)
def test_a_run_ends_as_its_block_was_left(
    tmp_path: Path, tracking: Tracking, error: BaseException | None, status: str
) -> None:
    """And the error goes on to the caller."""
    expected = contextlib.nullcontext() if error is None else pytest.raises(type(error))
    with (
        expected,
        runs.tracked(tracking, "exp", "n", {"role": "x"}, tmp_path) as run_id,
    ):
        assert tracking.status(run_id) == "RUNNING"
        if error is not None:
            raise error
    assert tracking.status(run_id) == status

    with runs.tracked(tracking, "exp", "n", {}, tmp_path, again=run_id):
        assert tracking.status(run_id) == "RUNNING"
    assert tracking.status(run_id) == "FINISHED"


def test_a_run_ends_although_its_driver_and_all_its_group_were_killed(
    tmp_path: Path, tracking: Tracking
) -> None:
    """SIGKILL leaves no time for anything: the warden sends the last points and ends the run."""
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, tracking.uri, str(tmp_path)],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(runs.__file__).parents[2])},
    )  # fmt: skip
    assert driver.stdout is not None
    run_id = driver.stdout.readline().strip()
    assert tracking.status(run_id) == "RUNNING"
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    driver.stdout.close()

    for _ in range(600):
        if tracking.status(run_id) != "RUNNING":
            break
        time.sleep(0.1)
    assert tracking.status(run_id) == "KILLED"
    assert tracking.metric_history(run_id, "loss") == [(1, 0.5)]


def test_what_workers_write_after_a_stop_is_sent_too(tmp_path: Path, tracking: Tracking) -> None:
    """They outlive the driver for a moment: the warden waits until the last one has closed."""
    with (
        contextlib.suppress(SystemExit),
        runs.tracked(tracking, "exp", "n", {}, tmp_path) as run_id,
    ):
        (tmp_path / run_id).mkdir()
        log = MetricLog(tmp_path / run_id)
        raise SystemExit(1)
    log.add(EPOCH, 1, {"loss": 0.5}, 1000)
    log.close()

    for _ in range(600):
        if tracking.metric_history(run_id, "loss"):
            break
        time.sleep(0.1)
    assert tracking.metric_history(run_id, "loss") == [(1, 0.5)]
    assert tracking.status(run_id) == "KILLED"


def test_a_run_that_another_driver_went_on_with_is_left_to_it(
    tmp_path: Path, tracking: Tracking
) -> None:
    """The warden of the killed one waits for workers; meanwhile the run changes hands."""
    run_id = tracking.start_run("exp", "n", {TAG: "killed"})
    (tmp_path / run_id).mkdir()
    log = MetricLog(tmp_path / run_id)
    log.add(EPOCH, 1, {"loss": 0.5}, 1000)
    log.flush()
    asked = threading.Event()

    class Asked(Tracking):
        def tagged(self, tag: str, value: str) -> dict[str, str]:
            found = super().tagged(tag, value)
            asked.set()
            return found

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        ending = pool.submit(end_runs, Asked(tracking.uri), "killed", tmp_path, "KILLED")
        assert asked.wait(60)
        assert not ending.done()
        tracking.set_tags(run_id, {TAG: "next"})
        log.close()
        assert ending.result() == []

    assert tracking.status(run_id) == "RUNNING"
    assert end_runs(tracking, "next", tmp_path, "KILLED") == [run_id]


def test_points_and_their_times_are_what_the_worker_wrote(
    tmp_path: Path, tracking: Tracking
) -> None:
    """Not the time at which MLflow was back."""
    with runs.tracked(tracking, "exp", "n", {}, tmp_path) as run_id:
        (tmp_path / run_id).mkdir()
        log = MetricLog(tmp_path / run_id)
        log.add(EPOCH, 1, {"loss": 0.5}, 1234)
        log.close()
        MetricSpool(tmp_path / run_id).send(tracking, run_id)

    with tracking._answering() as client:
        assert [point.timestamp for point in client.get_metric_history(run_id, "loss")] == [1234]
