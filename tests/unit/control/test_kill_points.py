"""SIGKILL before and after every durable write, lease renewals included."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.proof)])
def test_each_kill_point_converges_to_the_uninterrupted_end(repository, child_environment, every):
    """The hook sits in the store, so no write is left out; each fourth, and all in a proof."""
    # A killed process loses nothing that it wrote to memory, and no write waits for a disk.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        ended = subprocess.run(
            [sys.executable, "-m", "tests.unit.control.kill_story", folder, str(every)],
            cwd=repository, env=child_environment, capture_output=True, text=True, timeout=240,
            check=False,
        )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-4000:]
    told = json.loads(ended.stdout.splitlines()[-1])

    assert told["good"]["end"][:4] == ["promoted", "2", 1.0, []]
    assert told["bad"]["end"][:4] == ["rolled_back", "1", 1.0, []]
    for found in told.values():
        assert found["others"] == []
        assert found["killed"] == found["tried"]
        assert found["tried"] * every >= found["points"] > 30
