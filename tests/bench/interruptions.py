"""Interrupt the main job in every stage, twice over, and keep what came of it.

``make prove-interruptions`` runs the reference workload's small recipe on two new platforms. On one
the driver gets SIGKILL inside each stage in turn, on the other the client gets Ctrl-C. Each time
the same command is submitted again and must go on after the last finished stage; the last one runs
to its end. Writes ``tests/bench/results/interruptions.json``.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench import results
from tests.e2e.conftest import LivePlatform, new_platform
from tests.e2e.interruptions import BEGINS, interrupt, running_runs

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ("--recipe", "jobs.flights:small")
CTRL_C_LIMIT_S = 10


def main() -> int:
    """Interrupt in both ways, write the results file, and return 0 if all ended well."""
    rounds = [_round(how) for how in (signal.SIGKILL, signal.SIGINT)]
    problems = [problem for item in rounds for problem in item["problems"]]
    results.write("interruptions", "make prove-interruptions", rounds=len(rounds), figures={
        "interruptions": sum(len(item["interrupted"]) for item in rounds),
        "slowest_ctrl_c_s": max(found["seconds"] for found in rounds[1]["interrupted"]),
        "runs": rounds,
    })  # fmt: skip
    for problem in problems:
        sys.stderr.write(f"interruptions: {problem}\n")
    return 1 if problems else 0


def _round(how: signal.Signals) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="heliostat-interruptions-"))
    platform = new_platform(ROOT, folder / "state")
    try:
        started = platform.run("up")
        if started.returncode:
            raise SystemExit(started.stdout + started.stderr)
        return _stages(platform, how)
    finally:
        platform.run("down")
        shutil.rmtree(folder, ignore_errors=True)


def _stages(platform: LivePlatform, how: signal.Signals) -> dict[str, Any]:
    interrupted, problems = [], []
    for stage in BEGINS:
        found = interrupt(platform, stage, how, RECIPE)
        print(
            f"{how.name} in {stage}: exit {found.exit_code} in {found.seconds:.1f} s",
            flush=True,
        )
        interrupted.append(
            {
                "stage": stage,
                "exit_code": found.exit_code,
                "seconds": round(found.seconds, 2),
                "stages_done": found.stages_done,
            }
        )
        if how is signal.SIGINT and (found.exit_code, found.seconds < CTRL_C_LIMIT_S) != (
            130,
            True,
        ):
            problems.append(
                f"Ctrl-C in {stage}: exit {found.exit_code} after {found.seconds:.1f} s"
            )
        if how is signal.SIGKILL and found.exit_code == 0:
            problems.append(f"a driver killed in {stage} counted as success")
    last = platform.run("submit", *RECIPE, "--", "jobs/pipeline.py", timeout_s=600)
    problems += _problems(platform, how, last)
    return {
        "how": how.name,
        "interrupted": interrupted,
        "last_run_exit_code": last.returncode,
        "report": _report(platform) if last.returncode == 0 else last.stdout[-2000:],
        "problems": problems,
    }


def _problems(
    platform: LivePlatform, how: signal.Signals, last: subprocess.CompletedProcess[str]
) -> list[str]:
    if last.returncode:
        return [f"the run after the last {how.name} ended with {last.returncode}: {last.stderr}"]
    report = _report(platform)
    found = [f"MLflow run {run} is RUNNING" for run in running_runs(platform)]
    if (report["state"], report["failed"]) != ("promoted", 0):
        found.append(f"after {how.name}: {report}")
    if report["different"]:
        found.append(f"after {how.name}: {report['different']} values differ online and offline")
    return found


def _report(platform: LivePlatform) -> dict[str, Any]:
    newest = max((platform.home / "reports").glob("*.json"), key=lambda path: path.stat().st_mtime)
    report = json.loads(newest.read_text())
    return {
        "state": report["rollout"]["state"],
        "requests": report["requests"],
        "failed": report["failed"],
        "different": report["features_online_vs_offline"]["different"]
        + report["scores_online_vs_offline"]["different"],
        "versions": {name: item["version"] for name, item in report["versions"].items()},
    }


if __name__ == "__main__":
    sys.exit(main())
