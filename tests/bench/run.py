"""Runs a program of this folder with a short private folder, free ports and Serve's environment.

Usage: ``python -m tests.bench.run tests.bench.serving [ARGS]``
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from heliostat.testing.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    """Run it; return its exit code."""
    folder = tempfile.mkdtemp(prefix="hs-", dir="/tmp")
    ports = ",".join(str(port) for port in free_ports(4))
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "NO_PROXY": "127.0.0.1,localhost",
    }
    module, *rest = sys.argv[1:]
    process = subprocess.Popen(
        [sys.executable, "-m", module, folder, ports, *rest],
        cwd=ROOT, env=environment, start_new_session=True,
    )  # fmt: skip
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
