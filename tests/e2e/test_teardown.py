"""The end of a platform: after a crash, and when it cannot start. Runs last in its ring."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path

import pytest

from heliostat.stack import processes, record, sockets, tempdir
from tests.e2e.conftest import LivePlatform, new_platform

pytestmark = pytest.mark.slow


def test_down_after_a_crash_leaves_nothing(live_platform: LivePlatform) -> None:
    """Ray's head and MLflow killed: status says so, `down` ends the rest, twice is fine."""
    known = record.read(live_platform.home)
    assert known is not None
    haproxy = [pid for pid, line in live_platform.members().items() if "/haproxy " in line]
    assert haproxy
    raylet = [pid for pid, line in live_platform.members().items() if "/raylet " in line]
    for pid in (*raylet, *(leader.pid for leader in known.leaders)):
        os.kill(pid, signal.SIGKILL)
    time.sleep(1)
    status = live_platform.run("status")
    assert status.returncode == 4
    assert status.stdout.startswith("broken")
    down = live_platform.run("down")
    assert down.returncode == 0, down.stdout + down.stderr
    assert live_platform.members() == {}
    assert not [pid for pid in haproxy if processes.identify(pid)]
    assert not Path(known.temp_dir).exists()
    assert all(sockets.is_free(port) for port in dataclasses.asdict(known.settings.ports).values())
    assert live_platform.run("down").stdout == "nothing runs\n"


def test_a_start_that_fails_says_why_and_leaves_nothing(repository: Path, tmp_path: Path) -> None:
    """An application that cannot be imported: Serve's reason, exit 4, no process left."""
    config = tmp_path / "broken.yaml"
    config.write_text(
        "http_options: {host: 127.0.0.1, port: '${SERVE_PORT}'}\n"
        "applications: [{name: x, route_prefix: /, import_path: 'tests.local.nowhere:build'}]\n"
    )
    found = new_platform(repository, tmp_path / "h", f"serve_config={config}")
    done = found.run("up")
    assert done.returncode == 4
    assert "Serve application x: DEPLOY_FAILED" in done.stderr
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr
    assert found.members() == {}
    assert not tempdir.temp_dir(tmp_path / "h").exists()
