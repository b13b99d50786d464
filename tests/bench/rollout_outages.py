"""Store, MLflow and Prometheus away for five minutes under live requests: part of `make prove-rollouts`.

Writes what happened to ``tests/bench/results/rollout_outages.json``. Usage:
``python -m tests.bench.rollout_outages [OUTAGE_S]``
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from tests.bench import results, run

OUTAGE_S = 300.0
MOST_S = 1.0
"""From the decision to the last answer of the candidate."""


def failures(told: dict[str, Any]) -> list[str]:
    """What does not hold."""
    store, away, ab = told["store"], told["registry_and_prometheus"], told["ab"]
    rules = {
        "the bad candidate moved or ended while the store was away": len(set(store["seen"])) == 1,
        "the bad candidate was not rolled back after it": store["state"] == "rolled_back",
        "no process of the candidate was stopped": store["processes_stopped"] > 0,
        "a stopped process answered": store["answered_by_the_stopped"] == 0,
        "the candidate answered long after the decision": (
            store["decision_to_last_candidate_s"] <= MOST_S
        ),
        "the good candidate moved while its check was away": len(set(away["seen"])) == 1,
        "the good candidate was not promoted after it": away["state"] == "promoted",
        "there was no bake": "rollout.bake_reached" in away["kinds"],
        "the A/B test found nothing": ab["state"] == "concluded" and ab["looks"] > 0,
        "a unit of the A/B test had two versions": ab["units_with_two_versions"] == 0,
        "a request of the A/B test failed": ab["failed"] == 0,
        "a request failed": told["failed"] == [],
        "the audit trail is broken": not told["audit"],
    }
    return [words for words, holds in rules.items() if not holds]


def main() -> int:
    """Measure, print, write; return 1 if something does not hold."""
    outage_s = float(sys.argv[1]) if len(sys.argv) > 1 else OUTAGE_S
    began = time.monotonic()
    told = run.told("tests.local.outage_story", str(outage_s))
    wrong = failures(told)
    seconds = round(time.monotonic() - began, 1)
    figures = {"seconds": seconds, "failures": wrong, **told}
    print(json.dumps(figures, indent=2))
    if outage_s >= OUTAGE_S:
        results.write(
            "rollout_outages", "python -m tests.bench.rollout_outages", rounds=1, figures=figures
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
