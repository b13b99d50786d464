"""What every ring shares: where the repository is, and a child's environment without surprises."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from heliostat.stack import tempdir

ROOT = Path(__file__).resolve().parent.parent

# Read when the first property runs; its default is a folder at the top of the checkout.
os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(ROOT / ".venv/.cache/hypothesis"))


def _reach_environment_without_spaces() -> None:
    """Let Ray, which no test may have imported yet, find itself at a path without spaces."""
    folder = Path(tempfile.mkdtemp(prefix="ht-", dir="/tmp"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    sys.executable = str(tempdir.python(folder))
    prefix = str(Path(sys.executable).parents[1])
    sys.path[:] = [
        prefix + path.removeprefix(sys.prefix) if path.startswith(sys.prefix) else path
        for path in sys.path
    ]


if " " in sys.executable:
    _reach_environment_without_spaces()


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
