"""Interrupt the main job inside a chosen stage, by SIGKILL of its driver or by Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heliostat.stack import local, record
from tests.e2e.conftest import LivePlatform

BEGINS = {
    "ingest": "[ingest] started",
    "features": "[features] started",
    "materialize": "[materialize] started",
    "train stable": "[train stable] 0%",
    "evaluate stable": "[evaluate stable] started",
    "register stable": "[register stable] started",
    "deploy": "[deploy] started",
    "train candidate": "[train candidate] 0%",
    "evaluate candidate": "[evaluate candidate] started",
    "register candidate": "[register candidate] started",
    "canary": "candidate at 10 %, running",
}
"""What the job prints once it is in a stage, in the order of the stages."""


LIMIT_S = 240
"""Longest wait for a stage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Interruption:
    """How a job that was interrupted in a stage ended."""

    stage: str
    how: str
    exit_code: int
    seconds: float
    """From the signal to the client's end."""
    output: str

    @property
    def stages_done(self) -> list[str]:
        """Stages that had ended before, in this run or an earlier one."""
        return [
            line[1 : line.index("]")]
            for line in self.output.splitlines()
            if "] done in" in line or "] reused: " in line
        ]


def interrupt(
    platform: LivePlatform, stage: str, how: signal.Signals, arguments: Sequence[str]
) -> Interruption:
    """Submit the pipeline, wait until it is in the stage, interrupt it, wait for the client.

    SIGKILL goes to the driver, SIGINT to the client, as Ctrl-C in a terminal does.
    """
    before = set(_driver_logs(platform))
    process = subprocess.Popen(
        [sys.executable, "-m", "heliostat", "submit", *arguments, "--", "jobs/pipeline.py"],
        env=platform.environment, cwd=platform.repository, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        _wait_for(platform, before, process, BEGINS[stage])
        began = time.monotonic()
        if how is signal.SIGKILL:
            for driver in drivers(platform):
                os.kill(driver, signal.SIGKILL)
        else:
            process.send_signal(how)
        output, _ = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return Interruption(
        stage=stage,
        how=how.name,
        exit_code=process.returncode,
        seconds=time.monotonic() - began,
        output=output,
    )


def _wait_for(
    platform: LivePlatform, before: set[Path], process: subprocess.Popen[str], text: str
) -> None:
    """Read the driver's own log, since some stages are over before the client prints a line."""
    ends = time.monotonic() + LIMIT_S
    while time.monotonic() < ends and process.poll() is None:
        if any(text in _read(log) for log in set(_driver_logs(platform)) - before):
            return
        time.sleep(0.01)
    process.kill()
    output, _ = process.communicate()
    raise AssertionError(f"ended without {text!r}:\n{output}")


def _read(log: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return log.read_text()
    return ""


def _driver_logs(platform: LivePlatform) -> list[Path]:
    known = record.read(platform.home)
    assert known is not None
    return list(Path(known.temp_dir).glob("session_latest/logs/job-driver-*.log"))


def drivers(platform: LivePlatform) -> list[int]:
    """Processes that run this platform's pipeline."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        ours = f"HELIOSTAT_HOME={platform.home}".encode() in environment
        if ours and words[1:2] == [b"jobs/pipeline.py"]:
            found.append(int(folder.name))
    return found


def running_runs(platform: LivePlatform) -> list[str]:
    """Runs that MLflow still calls RUNNING."""
    base = local.client_variables(platform.home)["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow"

    def ask(path: str, body: dict[str, object]) -> Any:
        request = urllib.request.Request(
            base + path,
            data=json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    experiments = ask("/experiments/search", {"max_results": 100})["experiments"]
    found = ask(
        "/runs/search",
        {
            "experiment_ids": [item["experiment_id"] for item in experiments],
            "filter": "attributes.status = 'RUNNING'",
        },
    )
    return [run["info"]["run_id"] for run in found.get("runs", [])]
