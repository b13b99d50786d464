"""The local platform as a whole: what it listens on, what it runs, how a job ends."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from heliostat.stack import doctor, record, sockets
from heliostat.stack.settings import Ports
from tests.e2e.conftest import LivePlatform

pytestmark = pytest.mark.slow


def test_up_answers_and_says_so_once(live_platform: LivePlatform) -> None:
    """After `up` every part answers; a second `up` says that and changes nothing."""
    before = record.read(live_platform.home)
    again = live_platform.run("up")
    assert (again.returncode, again.stdout.splitlines()[0]) == (0, "already up; nothing changed")
    assert record.read(live_platform.home) == before
    found = json.loads(live_platform.run("status", "--json").stdout)
    assert found["state"] == "up"
    assert found["parts"] == {"ray": "up", "mlflow": "up", "endpoint": "up"}
    own = {name: found["applications"].get(name) for name in ("gateway", "control")}
    assert own == {"gateway": "RUNNING", "control": "RUNNING"}
    with urllib.request.urlopen(
        found["urls"]["endpoint"] + "/v2/health/live", timeout=10
    ) as answer:
        assert answer.status == 200


def test_serve_puts_the_file_again_and_changes_nothing(live_platform: LivePlatform) -> None:
    """What it declares runs, and what the controller has started itself is not ended."""
    before = json.loads(live_platform.run("status", "--json").stdout)["applications"]
    done = live_platform.run("serve", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "applications": {"gateway": "RUNNING", "control": "RUNNING"}, "ended": [],
    }  # fmt: skip
    after = json.loads(live_platform.run("status", "--json").stdout)["applications"]
    assert after == before
    shown = live_platform.run("serve", "--show").stdout
    assert "${" not in shown
    assert "import_path: serve_apps.gateway:build" in shown


def test_nothing_listens_off_loopback_but_what_doctor_names(live_platform: LivePlatform) -> None:
    """The sockets themselves are read: all on loopback, except those named with their reason."""
    members = live_platform.members()
    reachable = doctor.open_sockets(members)
    assert len(sockets.listening(list(members))) >= len(dataclasses.fields(Ports))
    assert [item for item, reason in reachable if reason is None] == []
    done = live_platform.run("doctor", "--json")
    named = {item["name"] for item in json.loads(done.stdout)}
    assert {f"port {item.port}" for item, _ in reachable} <= named
    assert done.returncode == 0, done.stdout


def test_nothing_connects_outward(live_platform: LivePlatform, clone: Path) -> None:
    """While a job runs, no process of the platform has a connection that leaves the machine."""
    job = _submit(live_platform, clone, "0", "1")
    seen = []
    while job.poll() is None:
        seen += sockets.reaches_out([*live_platform.members(), job.pid])
        time.sleep(0.1)
    job.communicate()
    assert job.returncode == 0
    assert seen == []


def test_ray_asks_for_the_token(live_platform: LivePlatform) -> None:
    """Without the token the Jobs API answers 401; the token's file is private."""
    known = record.read(live_platform.home)
    assert known is not None
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(known.clients["RAY_ADDRESS"] + "/api/jobs/", timeout=10)
    assert caught.value.code == 401
    assert Path(known.clients["RAY_AUTH_TOKEN_PATH"]).stat().st_mode & 0o777 == 0o600


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """An archive of the clone without .git, with a job of its own and a changed line."""
    root = tmp_path / "a clone"
    for name in ("jobs", "serve_apps", "platform/heliostat"):
        (root / name).mkdir(parents=True)
    (root / "platform/heliostat/__init__.py").write_text("CHANGED = 'uploaded, not installed'\n")
    (root / "jobs/probe.py").write_text(
        "import os, signal, sys, time\n"
        "import heliostat\n"
        "def leave(*_):\n"
        "    print('driver was told to stop', flush=True)\n"
        "    sys.exit(5)\n"
        "signal.signal(signal.SIGTERM, leave)\n"
        "print(heliostat.CHANGED, os.environ['HELIOSTAT_REVISION'][:8], flush=True)\n"
        "print(os.environ['MLFLOW_TRACKING_URI'], flush=True)\n"
        "print('[probe] 50% of it', flush=True)\n"
        "time.sleep(float(sys.argv[2]))\n"
        "sys.exit(int(sys.argv[1]))\n"
    )
    return root


def _submit(live_platform: LivePlatform, clone: Path, *arguments: str) -> subprocess.Popen[str]:
    # The client is this checkout's; what it uploads is the folder it is started in.
    return subprocess.Popen(
        [sys.executable, "-m", "heliostat", "submit", "--", "jobs/probe.py", *arguments],
        env=live_platform.environment,
        cwd=clone,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("code", [0, 3])
def test_a_job_runs_the_uploaded_code_and_its_exit_code_is_ours(
    live_platform: LivePlatform, clone: Path, code: int
) -> None:
    """A changed line is seen without installing; the job's own exit code comes back."""
    job = _submit(live_platform, clone, str(code), "0")
    out, err = job.communicate(timeout=120)
    assert job.returncode == code, out + err
    known = record.read(live_platform.home)
    assert known is not None
    assert out.splitlines()[-3:] == [
        "uploaded, not installed content-",
        known.settings.mlflow_url,
        "[probe] 50% of it",
    ]
    assert "ray job submit --working-dir . --runtime-env-json" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_the_job_within_ten_seconds(
    live_platform: LivePlatform, clone: Path, number: signal.Signals
) -> None:
    """The driver is told to stop, the exit code is 130, one line says what still runs."""
    job = _submit(live_platform, clone, "0", "120")
    assert job.stdout is not None
    for line in job.stdout:
        if line.startswith("[probe]"):
            break
    began = time.monotonic()
    job.send_signal(number)
    _, err = job.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert job.returncode == 130
    assert err.splitlines()[-1].endswith("end it with: make down")
    assert not [line for line in live_platform.members().values() if "jobs/probe.py" in line]
