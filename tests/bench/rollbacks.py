"""Roll bad candidates back on the real gateway, twenty times: part of `make prove-rollouts`.

Writes each run to ``tests/bench/results/rollbacks.json``. Usage:
``python -m tests.bench.rollbacks [RUNS]``
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from tests.bench import results, run

RUNS = 20
MOST_S = 1.0
"""From the decision to the last answer of the candidate."""


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
    told = run.told("tests.local.rollback_story", str(runs))
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
