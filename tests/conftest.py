"""What every ring shares: where the repository is, and a child's environment without surprises."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from heliostat.stack import tempdir
from heliostat.testing.redis import RedisServer, is_installed

ROOT = Path(__file__).resolve().parent.parent

# Read when the first property runs; its default is a folder at the top of the checkout.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(ROOT / ".venv/.cache/hypothesis"))


# How fast examples come says something about the machine, nothing about the code.
settings.register_profile("heliostat", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("heliostat")

SCRATCH = Path(tempfile.mkdtemp(prefix="ht-", dir="/tmp"))
"""Every temporary file of the tests and of what they start; short, for the sake of sockets."""

os.environ["TMPDIR"] = str(SCRATCH)
# Else onnxruntime keeps a database below HOME.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
tempfile.tempdir = None

FAILED = pytest.StashKey[bool]()


def _reach_environment_without_spaces() -> None:
    """Let Ray, which no test may have imported yet, find itself at a path without spaces."""
    sys.executable = str(tempdir.python(SCRATCH))
    prefix = str(Path(sys.executable).parents[1])
    sys.path[:] = [
        prefix + path.removeprefix(sys.prefix) if path.startswith(sys.prefix) else path
        for path in sys.path
    ]


if " " in sys.executable:
    _reach_environment_without_spaces()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the temporary files, unless a test failed."""
    if not config.stash.get(FAILED, False):
        shutil.rmtree(SCRATCH, ignore_errors=True)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remember whether a test failed."""
    session.config.stash[FAILED] = exitstatus != 0


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of this checkout."""
    return ROOT


@pytest.fixture(scope="session")
def child_environment() -> dict[str, str]:
    """Environment for child processes: this checkout's source, and no outward telemetry."""
    return {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "FEAST_USAGE": "False",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A started Redis server, empty; skipped where none is installed."""
    if not is_installed():
        pytest.skip("redis-server is not installed")
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.kill()
