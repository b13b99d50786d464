"""Training and serving on one GPU, beside plain torch and the CPU: `make bench-gpu`.

Says so and ends well where there is no GPU; ``--device cpu`` rehearses every part at a small size.
Each part runs in a process of its own with a limit of time, so that what one breaks, or leaves on
the device, is not the next one's. Writes ``tests/bench/results/gpu.json`` after each.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench import results
from tests.bench.results import ROOT

PARTS: dict[str, tuple[str, int]] = {
    "card": ("tests.bench.gpu_speed:card", 60),
    "precision": ("tests.bench.gpu_equal:precision", 90),
    "killed": ("tests.bench.gpu_equal:killed", 120),
    "strategies": ("tests.bench.gpu_equal:strategies", 150),
    "speed": ("tests.bench.gpu_speed:bfloat16", 300),
    "ray": ("tests.bench.gpu_ray:train", 300),
    "serving": ("tests.bench.gpu_serving:answers", 100),
    "ray_kinds": ("tests.bench.gpu_ray:kinds", 150),
    "precisions": ("tests.bench.gpu_speed:others", 300),
    "compiled": ("tests.bench.gpu_speed:compiled", 300),
}
"""Function and seconds of each part."""

TOGETHER = ("precision", "killed", "strategies")
"""Parts that measure no time share the device."""


def main() -> int:
    """Run the parts, write the results file; 0 if none failed and every comparison held."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, help="Instead of the results file.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=list(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return _one(options.one, options.device, options.rounds, options.out)
    if options.device == "cuda" and not _has_gpu():
        print("bench-gpu skipped: torch sees no GPU here; --device cpu rehearses it")
        return 0
    work = Path(tempfile.mkdtemp(prefix="ht-gpu-", dir="/tmp"))
    figures: dict[str, Any] = {}
    patience = 1 if options.device == "cuda" else 6
    try:
        together = [name for name in options.parts if name in TOGETHER]
        running = {name: _start(name, options, work) for name in together}
        for name in [*together, *(name for name in options.parts if name not in TOGETHER)]:
            begun = running.get(name) or _start(name, options, work)
            figures[name] = _ended(name, *begun, work, patience)
            print(f"{name}: {json.dumps(figures[name])[:1500]}", flush=True)
            _write(figures, options.device, options.out)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0 if all("error" not in found and _held(found) for found in figures.values()) else 1


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _one(name: str, device: str, rounds: int, out: Path) -> int:
    """Run one part in this process; `out` is its folder."""
    import importlib

    import torch

    from tests.bench import gpu_models, gpu_place

    module, function = PARTS[name][0].split(":")
    size = gpu_models.FULL if device == "cuda" else gpu_models.REHEARSAL
    # As Ray names it to its workers.
    where = torch.device("cuda", 0) if device == "cuda" else torch.device("cpu")
    size = dataclasses.replace(size, rounds=min(rounds, size.rounds))
    found = getattr(importlib.import_module(module), function)(out, where, size)
    found["card_name"] = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    gpu_place.note(out, found)
    return 0


def _start(
    name: str, options: argparse.Namespace, work: Path
) -> tuple[subprocess.Popen[bytes], float]:
    folder = work / name
    folder.mkdir()
    command = [sys.executable, "-m", "tests.bench.gpu", "--one", name, "--device", options.device]
    command += ["--rounds", str(options.rounds)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--out", str(folder)], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    return process, time.monotonic()


def _ended(
    name: str, process: subprocess.Popen[bytes], began_s: float, work: Path, patience: int
) -> dict[str, Any]:
    limit_s = PARTS[name][1] * patience
    try:
        process.wait(max(1.0, limit_s - (time.monotonic() - began_s)))
        why = "" if process.returncode == 0 else f"exit code {process.returncode}"
    except subprocess.TimeoutExpired:
        why = f"not ended after {limit_s} s"
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    took_s = round(time.monotonic() - began_s, 1)
    kept = work / name / "found.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    if why:
        log = (work / name / "log").read_text(errors="replace")
        found["error"] = f"{why}: {log[-3000:]}"
    return {**found, "took_s": took_s}


def _held(found: Any) -> bool:
    """Whether no comparison in nested figures failed."""
    if isinstance(found, dict):
        return found.get("held", True) and all(_held(value) for value in found.values())
    return True


def _write(figures: dict[str, Any], device: str, out: Path | None) -> None:
    if out is None and device == "cuda":
        results.write("gpu", "make bench-gpu", rounds=5, figures={"parts": figures})
    else:
        (out or Path(tempfile.gettempdir()) / "gpu-rehearsal.json").write_text(
            json.dumps({"parts": figures}, indent=2) + "\n"
        )


if __name__ == "__main__":
    sys.exit(main())
