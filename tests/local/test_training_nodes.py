"""Machines that come and go: announced, lost, and replaced, in a Ray of several nodes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_a_training_outlives_a_reclaimed_machine_and_takes_a_new_one(tmp_path: Path) -> None:
    """An announced end is answered by a checkpoint; then one worker goes on, and later two."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.local.nodes_story", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}",
            "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1",
            "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",
            # Ray may ask for two workers again before it has seen that a node is gone; then it
            # waits this long before it asks anew.
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])

    assert told["workers_at_first"] == [2, 2]
    assert told["kept_before_it_went"] % 27 != 0
    # Ray is asked every 20 steps, and a lost node takes a moment to be seen.
    assert told["steps_lost"] <= 20
    assert 1 in told["workers"]
    assert told["workers"][-2:] == [2, 2]
    assert (told["epochs"], told["steps_once_each"]) == (12, True)
    assert told["losses"][-1] < told["losses"][0]
