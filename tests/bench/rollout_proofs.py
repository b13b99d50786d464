"""Count kill points, stale writers, tampered records and random lives: part of `make prove-rollouts`.

Writes raw counts to ``tests/bench/results/rollout_proofs.json``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hypothesis.stateful import run_state_machine_as_test

from tests.bench import results
from tests.unit.control import test_audit, test_stale_writer, test_state_machine

LIVES = 400


def killed(folder: Path) -> dict[str, Any]:
    """SIGKILL before and after each durable write; which ends differ from the uninterrupted one."""
    (folder / "killed").mkdir()
    command = [sys.executable, "-m", "tests.unit.control.kill_story", str(folder / "killed")]
    path = f"{results.ROOT / 'platform'}{os.pathsep}{results.ROOT}"
    ended = subprocess.run(
        command, cwd=results.ROOT, env={**os.environ, "PYTHONPATH": path}, check=True,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    told: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return told


def lived() -> dict[str, Any]:
    """Random lives against the reference model; it raises where one breaks a rule."""
    test_state_machine.Rollouts.steps = 0
    run_state_machine_as_test(test_state_machine.Rollouts, settings=test_state_machine.lives(LIVES))
    return {"lives": LIVES, "steps": test_state_machine.Rollouts.steps}


def measure() -> dict[str, Any]:
    """Everything, as it goes into the results file."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as name:
        folder = Path(name)
        (folder / "stale").mkdir()
        points, refused = test_stale_writer.refused(folder / "stale", every=1)
        test_audit.record(folder / "audit.db")
        made, found = test_audit.tampered(folder / "audit.db", folder / "copy.db")
        return {
            "killed": killed(folder),
            "stale_writer": {"points": points, "refused": refused},
            "audit": {"changes": made, "found": found},
            "state_machine": lived(),
        }


def failures(told: dict[str, Any]) -> list[str]:
    """What does not hold."""
    wrong = [
        f"killed: {name}"
        for name, item in told["killed"].items()
        if item["others"] or item["killed"] != item["points"]
    ]
    stale, audit = told["stale_writer"], told["audit"]
    if stale["points"] != stale["refused"]:
        wrong.append("stale writer")
    if audit["changes"] != audit["found"]:
        wrong.append("audit")
    if told["state_machine"]["steps"] < 10_000:
        wrong.append("state machine: too few steps")
    return wrong


def main() -> int:
    """Measure, print, write; return 1 if something does not hold."""
    began = time.monotonic()
    told = measure()
    wrong = failures(told)
    seconds = round(time.monotonic() - began, 1)
    figures = {"seconds": seconds, "failures": wrong, **told}
    print(json.dumps(figures, indent=2))
    results.write(
        "rollout_proofs", "python -m tests.bench.rollout_proofs", rounds=1, figures=figures
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
