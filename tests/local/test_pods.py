"""The stand-ins for Kubernetes and its operator behave as those do, where Pods can be made."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from heliostat.testing import pods


def test_pods_have_addresses_files_and_ends_of_their_own(child_environment, repository, tmp_path):
    """The same port in each; of two Pods the one that the autoscaler names ends, and one that failed is replaced."""
    if reason := pods.why_not():
        pytest.skip(reason)
    done = subprocess.run(
        pods.isolated([sys.executable, "-m", "tests.local.pods_story", str(tmp_path)]),
        cwd=repository, env=child_environment, capture_output=True, text=True, check=False,
        timeout=200,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "problems": [], "addresses": ["10.77.0.2", "10.77.0.3", "10.77.0.4"],
        "groups": ["cpu", "cpu"], "states": ["Running"], "ended": True, "slow_ends": [],
        "still_there": True, "gone": "", "failed": True, "left": 0,
    }  # fmt: skip
