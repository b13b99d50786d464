"""Run the main job on a new platform and keep what it showed: `make prove-demo`.

Starts from no state, so no stage is reused; the environment is there already. Writes minutes, peak
memory and the run's whole report to ``tests/bench/results/demo.json``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench import memory, results

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (("up",), ("submit", "--recipe", "jobs.flights:demo", "--", "jobs/pipeline.py"))


def main() -> int:
    """Run up and the job, write the results file, end the platform; return the job's code."""
    home = Path(tempfile.mkdtemp(prefix="heliostat-demo-"))
    environment = {**os.environ, "HELIOSTAT_HOME": str(home), "PYTHONPATH": f"platform:{ROOT}"}
    started = time.monotonic()
    code = 0
    try:
        with memory.Sampler(lambda: memory.marked([f"HELIOSTAT_HOME={home}"])) as sampler:
            for command in COMMANDS:
                code = code or subprocess.call(
                    [sys.executable, "-m", "heliostat", *command], cwd=ROOT, env=environment
                )
        minutes = (time.monotonic() - started) / 60
        (report,) = (home / "reports").glob("*.json")
        write(minutes, sampler.peak.sum_bytes / 2**30, json.loads(report.read_text()), code)
    finally:
        subprocess.call([sys.executable, "-m", "heliostat", "down"], cwd=ROOT, env=environment)
        shutil.rmtree(home, ignore_errors=True)
    return code


def write(minutes: float, peak_gib: float, report: dict[str, object], code: int) -> None:
    """Keep the figures, so that documents can name them."""
    results.write("demo", "make prove-demo", rounds=1, figures={
        "exit_code": code,
        "minutes_after_installation": round(minutes, 2),
        "peak_gib": round(peak_gib, 2),
        "report": report,
    })  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
