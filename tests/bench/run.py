"""Runs a program of this folder with a short private folder, free ports and Serve's environment.

Usage: ``python -m tests.bench.run tests.bench.serving [ARGS]``
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from heliostat.testing.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]


def run(module: str, *rest: str, stdout: int | None = None) -> tuple[int, str]:
    """Run a module as ``module FOLDER PORTS REST``; nothing that it started outlives it.

    Args:
        module: By its name.
        rest: Its own arguments.
        stdout: `subprocess.PIPE` to have what it prints.

    Returns:
        Its exit code, and what it printed.
    """
    folder = tempfile.mkdtemp(prefix="hs-", dir="/tmp")
    ports = ",".join(str(port) for port in free_ports(4))
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "NO_PROXY": "127.0.0.1,localhost",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", module, folder, ports, *rest],
        cwd=ROOT, env=environment, stdout=stdout, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        printed, _ = process.communicate()
        return process.returncode, printed or ""
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


def told(module: str, *rest: str) -> dict[str, Any]:
    """Run a story and return what its last line tells, as JSON."""
    code, printed = run(module, *rest, stdout=subprocess.PIPE)
    if code:
        raise SystemExit(f"{module} ended with exit code {code}")
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return found


def main() -> int:
    """Run it; return its exit code."""
    module, *rest = sys.argv[1:]
    return run(module, *rest)[0]


if __name__ == "__main__":
    sys.exit(main())
