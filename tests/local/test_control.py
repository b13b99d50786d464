"""The real controller, gateway, variants and registry together on one Ray Serve."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile

import pytest

from heliostat.testing.ports import free_ports


@pytest.mark.slow
@pytest.mark.proof
def test_the_real_controller_promotes_refuses_and_survives_its_death(repository, child_environment):
    """One good and one bad candidate under live requests; SIGKILL in the middle; none fails."""
    ports = ",".join(str(port) for port in free_ports(4))
    folder = tempfile.mkdtemp(prefix="hc-", dir="/tmp")
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "tests.local.control_story", folder, ports],
            cwd=repository,
            env={**child_environment, "RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert ended.returncode == 0, ended.stderr[-8000:]
    told = json.loads(ended.stdout.splitlines()[-1])

    assert told["killed"] == 1
    assert told["promoted"]["state"] == "promoted"
    assert told["refused"]["state"] == "rolled_back"
    assert told["refused"]["because"].startswith("loss: ")
    assert told["status"]["models"]["shapes"]["shares_percent"] == {"2": 100.0}
    running = {name for name, status in told["applications"].items() if status == "RUNNING"}
    assert running == {"control", "gateway"}
    assert told["failed"] == []
    assert told["decision_to_last_candidate_s"] <= 1.0
