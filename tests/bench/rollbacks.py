"""Roll bad candidates back on the real gateway, twenty times: part of `make prove-rollouts`.

Writes each run to ``tests/bench/results/rollbacks.json``. Usage:
``python -m tests.bench.rollbacks [RUNS]``
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

from heliostat.testing.ports import free_ports
from tests.bench import results

RUNS = 20
MOST_S = 1.0
"""From the decision to the last answer of the candidate."""


def measure(runs: int) -> dict[str, Any]:
    """Run the story in a process of its own and return what it told."""
    folder = tempfile.mkdtemp(prefix="hr-", dir="/tmp")
    ports = ",".join(str(port) for port in free_ports(4))
    environment = {
        **os.environ,
        "PYTHONPATH": f"{results.ROOT / 'platform'}{os.pathsep}{results.ROOT}",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "tests.local.rollback_story", folder, ports, str(runs)],
            cwd=results.ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    told: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return told


def failures(told: dict[str, Any]) -> list[str]:
    """What does not hold."""
    found = [
        f"run {number}: {item}"
        for number, item in enumerate(told["runs"])
        if item["state"] != "rolled_back"
        or item["failed"]
        or item["decision_to_last_candidate_s"] > MOST_S
    ]
    puts = told["puts"]
    if (puts["bad"], puts["good"], puts["failed"]) != ("rolled_back", "promoted", 0):
        found.append(f"puts: {puts}")
    if puts["traffic_moved_to_last_candidate_s"] > MOST_S:
        found.append("a version that was rolled back answered again")
    return found + [f"failed: {words}" for words in told["failed"]] + list(told["audit"])


def main() -> int:
    """Measure, print, write; return 1 if something does not hold."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else RUNS
    began = time.monotonic()
    told = measure(runs)
    wrong = failures(told)
    last = sorted(item["decision_to_last_candidate_s"] for item in told["runs"])
    figures = {
        "seconds": round(time.monotonic() - began, 1),
        "failures": wrong,
        "rolled_back": sum(item["state"] == "rolled_back" for item in told["runs"]),
        "num_failed": len(told["failed"]),
        "decision_to_last_candidate_most_s": last[-1] if last else None,
        **told,
    }
    print(json.dumps(figures, indent=2))
    if runs >= RUNS:
        results.write("rollbacks", "python -m tests.bench.rollbacks", rounds=runs, figures=figures)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
