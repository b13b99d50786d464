"""The real local platform on ports of its own, with a small Serve application."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from heliostat.stack import doctor, processes, record, sockets, tempdir
from heliostat.stack.settings import Ports
from tests.e2e.conftest import platform_ports

pytestmark = pytest.mark.slow


@dataclass(frozen=True, kw_only=True, slots=True)
class Platform:
    """A platform under test, driven by its command line as a person would."""

    repository: Path
    home: Path
    environment: dict[str, str]

    def run(self, *arguments: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "heliostat", *arguments],
            env=self.environment,
            cwd=self.repository,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )

    def members(self) -> dict[int, str]:
        known = record.read(self.home)
        return processes.members(self.home, known.leaders if known else [])


def _platform(repository: Path, home: Path, config: str) -> Platform:
    assignments = [f"ports.{name}={port}" for name, port in platform_ports().items()]
    kept = {"PATH", "HOME", "LANG", "TMPDIR"}
    return Platform(
        repository=repository,
        home=home,
        environment={
            **{key: value for key, value in os.environ.items() if key in kept},
            "PYTHONPATH": f"{repository / 'platform'}{os.pathsep}{repository}",
            "HELIOSTAT_HOME": str(home),
            "HELIOSTAT_SET": shlex.join([*assignments, f"serve_config={config}", "num_cpus=2"]),
        },
    )


@pytest.fixture(scope="module")
def platform(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A platform that is up, in a state folder with a long name with spaces."""
    home = tmp_path_factory.mktemp("home") / ("a long name " * 8).strip()
    found = _platform(repository, home, "tests/local/stack_app.yaml")
    done = found.run("up")
    assert done.returncode == 0, done.stdout + done.stderr
    yield found
    found.run("down")


def test_up_answers_and_says_so_once(platform: Platform) -> None:
    """After `up` every part answers; a second `up` says that and changes nothing."""
    before = record.read(platform.home)
    again = platform.run("up")
    assert (again.returncode, again.stdout.splitlines()[0]) == (0, "already up; nothing changed")
    assert record.read(platform.home) == before
    found = json.loads(platform.run("status", "--json").stdout)
    assert found["state"] == "up"
    assert found["parts"] == {"ray": "up", "mlflow": "up", "endpoint": "up"}
    assert found["applications"] == {"echo": "RUNNING"}
    with urllib.request.urlopen(found["urls"]["endpoint"] + "/hi", timeout=10) as answer:
        assert json.load(answer) == {"path": "/hi", "args": {"home": str(platform.home)}}


def test_nothing_listens_off_loopback_but_what_doctor_names(platform: Platform) -> None:
    """The sockets themselves are read: all on loopback, except those named with their reason."""
    members = platform.members()
    reachable = doctor.open_sockets(members)
    assert len(sockets.listening(list(members))) >= len(dataclasses.fields(Ports))
    assert [item for item, reason in reachable if reason is None] == []
    done = platform.run("doctor", "--json")
    named = {item["name"] for item in json.loads(done.stdout)}
    assert {f"port {item.port}" for item, _ in reachable} <= named
    assert done.returncode == 0, done.stdout


def test_nothing_connects_outward(platform: Platform, clone: Path) -> None:
    """While a job runs, no process of the platform has a connection that leaves the machine."""
    job = _submit(platform, clone, "0", "1")
    seen = []
    while job.poll() is None:
        seen += sockets.reaches_out([*platform.members(), job.pid])
        time.sleep(0.1)
    job.communicate()
    assert job.returncode == 0
    assert seen == []


def test_ray_asks_for_the_token(platform: Platform) -> None:
    """Without the token the Jobs API answers 401; the token's file is private."""
    known = record.read(platform.home)
    assert known is not None
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(known.clients["RAY_ADDRESS"] + "/api/jobs/", timeout=10)
    assert caught.value.code == 401
    assert Path(known.clients["RAY_AUTH_TOKEN_PATH"]).stat().st_mode & 0o777 == 0o600


@pytest.fixture
def clone(platform: Platform, tmp_path: Path) -> Path:
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


def _submit(platform: Platform, clone: Path, *arguments: str) -> subprocess.Popen[str]:
    # The client is this checkout's; what it uploads is the folder it is started in.
    return subprocess.Popen(
        [sys.executable, "-m", "heliostat", "submit", "--", "jobs/probe.py", *arguments],
        env=platform.environment,
        cwd=clone,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("code", [0, 3])
def test_a_job_runs_the_uploaded_code_and_its_exit_code_is_ours(
    platform: Platform, clone: Path, code: int
) -> None:
    """A changed line is seen without installing; the job's own exit code comes back."""
    job = _submit(platform, clone, str(code), "0")
    out, err = job.communicate(timeout=120)
    assert job.returncode == code, out + err
    known = record.read(platform.home)
    assert known is not None
    assert out.splitlines()[-3:] == [
        "uploaded, not installed content-",
        known.settings.mlflow_url,
        "[probe] 50% of it",
    ]
    assert "ray job submit --working-dir . --runtime-env-json" in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_the_job_within_ten_seconds(
    platform: Platform, clone: Path, number: signal.Signals
) -> None:
    """The driver is told to stop, the exit code is 130, one line says what still runs."""
    job = _submit(platform, clone, "0", "120")
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
    assert not [line for line in platform.members().values() if "jobs/probe.py" in line]


def test_down_after_a_crash_leaves_nothing(platform: Platform) -> None:
    """Ray's head and MLflow killed: status says so, `down` ends the rest, twice is fine."""
    known = record.read(platform.home)
    assert known is not None
    haproxy = [pid for pid, line in platform.members().items() if "/haproxy " in line]
    assert haproxy
    raylet = [pid for pid, line in platform.members().items() if "/raylet " in line]
    for pid in (*raylet, *(leader.pid for leader in known.leaders)):
        os.kill(pid, signal.SIGKILL)
    time.sleep(1)
    status = platform.run("status")
    assert status.returncode == 4
    assert status.stdout.startswith("broken")
    down = platform.run("down")
    assert down.returncode == 0, down.stdout + down.stderr
    assert platform.members() == {}
    assert not [pid for pid in haproxy if processes.identify(pid)]
    assert not Path(known.temp_dir).exists()
    assert all(sockets.is_free(port) for port in dataclasses.asdict(known.settings.ports).values())
    assert platform.run("down").stdout == "nothing runs\n"


def test_a_start_that_fails_says_why_and_leaves_nothing(repository: Path, tmp_path: Path) -> None:
    """An application that cannot be imported: Serve's reason, exit 4, no process left."""
    config = tmp_path / "broken.yaml"
    config.write_text(
        "http_options: {host: 127.0.0.1, port: '${SERVE_PORT}'}\n"
        "applications: [{name: x, route_prefix: /, import_path: 'tests.local.nowhere:build'}]\n"
    )
    found = _platform(repository, tmp_path / "h", str(config))
    done = found.run("up")
    assert done.returncode == 4
    assert "Serve application x: DEPLOY_FAILED" in done.stderr
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr
    assert found.members() == {}
    assert not tempdir.temp_dir(tmp_path / "h").exists()
