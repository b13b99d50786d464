"""Run the main job and its bad variants on a new platform and keep what they showed.

``make prove-demo`` starts from no state, so the first run reuses no stage; the environment is there
already. Then the same command again, which must reuse every stage and replay in full; then the
candidate trained on shuffled labels, which the offline gate refuses; then the same with that gate
waived, which live evidence rolls back. Writes ``tests/bench/results/demo.json``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.bench import memory, results

ROOT = Path(__file__).resolve().parents[2]
STAGES = (
    *("ingest", "features", "train stable", "evaluate stable", "register stable"),
    *("train candidate", "evaluate candidate", "register candidate"),
)


def main() -> int:
    """Run all four, write the results file, end the platform; return 0 if all ended as they must."""
    home = Path(tempfile.mkdtemp(prefix="heliostat-demo-"))
    environment = {**os.environ, "HELIOSTAT_HOME": str(home), "PYTHONPATH": f"platform:{ROOT}"}
    try:
        started = time.monotonic()
        with memory.Sampler(lambda: memory.marked([f"HELIOSTAT_HOME={home}"])) as sampler:
            up, _ = _run(environment, "up")
            code, _ = _submit(environment, "demo")
        minutes = (time.monotonic() - started) / 60
        report = _newest_report(home)
        again, told = _submit(environment, "demo")
        figures = {
            "exit_code": up or code,
            "minutes_after_installation": round(minutes, 2),
            "peak_gib": round(sampler.peak.sum_bytes / 2**30, 2),
            "report": report,
            "again": {
                "exit_code": again,
                "stages_reused": [name for name in STAGES if f"[{name}] reused" in told],
                "report": _short(_newest_report(home)),
            },
            "bad": _bad(environment),
            "bad_waived": _bad_waived(environment, home),
        }
        results.write("demo", "make prove-demo", rounds=1, figures=figures)
    finally:
        _run(environment, "down")
        shutil.rmtree(home, ignore_errors=True)
    return 0 if _as_it_must_be(figures) else 1


def _bad(environment: dict[str, str]) -> dict[str, Any]:
    code, told = _submit(environment, "demo_bad")
    said = [line for line in told.splitlines() if "stays where it is" in line]
    return {"exit_code": code, "said": said[-1:]}


def _bad_waived(environment: dict[str, str], home: Path) -> dict[str, Any]:
    code, _ = _submit(environment, "demo_bad_waived")
    report = _newest_report(home)
    with urllib.request.urlopen("http://127.0.0.1:8000/v1/status") as response:
        (model,) = json.load(response)["models"].values()
    return {"exit_code": code, "report": _short(report), "shares_percent": model["shares_percent"]}


def _as_it_must_be(figures: dict[str, Any]) -> bool:
    again, waived = figures["again"], figures["bad_waived"]
    reports = (figures["report"], again["report"], waived["report"])
    return (
        (figures["exit_code"], again["exit_code"]) == (0, 0)
        and again["stages_reused"] == list(STAGES)
        and (figures["bad"]["exit_code"], waived["exit_code"]) == (3, 3)
        and waived["report"]["state"] == "rolled_back"
        and waived["shares_percent"] == {waived["report"]["stable"]: 100.0}
        and [report["failed"] for report in reports] == [0, 0, 0]
    )


def _run(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Run one command of the CLI, show what it prints, and return its exit code and text."""
    told = []
    with subprocess.Popen(
        [sys.executable, "-m", "heliostat", *arguments],
        cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            told.append(line)
    return process.returncode, "".join(told)


def _submit(environment: dict[str, str], recipe: str) -> tuple[int, str]:
    recipe = f"jobs.flights:{recipe}"
    return _run(environment, "submit", "--recipe", recipe, "--", "jobs/pipeline.py")


def _newest_report(home: Path) -> dict[str, Any]:
    newest = max((home / "reports").glob("*.json"), key=lambda path: path.stat().st_mtime)
    report: dict[str, Any] = json.loads(newest.read_text())
    return report


def _short(report: dict[str, Any]) -> dict[str, Any]:
    return {
        "state": report["rollout"]["state"],
        "because": report["rollout"]["because"],
        "stable": report["versions"]["stable"]["version"],
        "requests": report["requests"],
        "failed": report["failed"],
        "requests_per_s": report["requests_per_s"],
        "seconds": report["seconds"],
        "different": report["features_online_vs_offline"]["different"]
        + report["scores_online_vs_offline"]["different"],
    }


if __name__ == "__main__":
    sys.exit(main())
