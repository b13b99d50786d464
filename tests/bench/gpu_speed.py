"""Rows per second of the platform's loop and of a plain one on the same device, in turn."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from heliostat.training.checkpoints import FOLDER
from heliostat.training.compute import Compute
from heliostat.training.recipe import TrainRecipe
from heliostat.training.rows import PreparedRows, prepare
from tests.bench import gpu_bare, gpu_models, gpu_place
from tests.bench.gpu_models import Size
from tests.bench.results import ROOT

Case = tuple[str, Callable[[Size, Compute], TrainRecipe], Compute, Size]
BF16 = Compute(precision="bfloat16")


def card(folder: Path, device: torch.device, size: Size) -> dict[str, Any]:
    """What it is, and the rate of a large bfloat16 product on random numbers."""
    del folder, size
    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda}
    if device.type != "cuda":
        return {**found, "name": "CPU"}
    asked = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found |= {"name": torch.cuda.get_device_name(), "nvidia_smi": asked.stdout.strip()}
    one, other = (torch.randn(8192, 8192, device=device).bfloat16() for _ in range(2))
    for _ in range(3):
        one @ other
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(20):
        one @ other
    torch.cuda.synchronize()
    passed_s = time.perf_counter() - began
    return {**found, "bfloat16_tflop_per_s": round(20 * 2 * 8192**3 / passed_s / 1e12)}


def bfloat16(folder: Path, device: torch.device, size: Size) -> dict[str, Any]:
    """Both networks in bfloat16, in one process, without Ray."""
    return _cases(
        folder,
        device,
        [
            ("wide bfloat16", gpu_models.wide, BF16, size),
            ("attention bfloat16", gpu_models.tokens, BF16, size),
        ],
    )


def others(folder: Path, device: torch.device, size: Size) -> dict[str, Any]:
    """In other precisions, and in parts."""
    few = dataclasses.replace(size, rounds=2)
    return _cases(
        folder,
        device,
        [
            ("attention tf32", gpu_models.tokens, Compute(precision="tf32"), few),
            ("wide tf32", gpu_models.wide, Compute(precision="tf32"), few),
            ("wide bfloat16 accumulate 4", gpu_models.wide,
             Compute(precision="bfloat16", accumulate=4), few),
            ("wide float32", gpu_models.wide, Compute(), few),
        ],
    )  # fmt: skip


def compiled(folder: Path, device: torch.device, size: Size) -> dict[str, Any]:
    """The network of attention under ``torch.compile`` on both sides."""
    compute = Compute(precision="bfloat16", compile=True)
    few = dataclasses.replace(size, rounds=2)
    return _cases(
        folder, device, [("attention bfloat16 compiled", gpu_models.tokens, compute, few)]
    )


def given(folder: Path, size: Size, recipe: TrainRecipe, *, is_wide: bool) -> PreparedRows:
    """Rows of a network, prepared once in a folder."""
    name = "wide" if is_wide else "tokens"
    kept = folder / f"{name}.pickle"
    if kept.exists():
        rows: PreparedRows = pickle.loads(kept.read_bytes())
        return rows
    count = size.wide_rows if is_wide else size.tokens_rows
    rows = prepare(recipe, gpu_models.made(count), folder / name)
    kept.write_bytes(pickle.dumps(rows))
    return rows


def compared(rates: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, rounds and their ratios."""
    ratios = [a / b for a, b in zip(rates["platform"], rates["bare"], strict=True)]
    return {
        "rows_per_s": {name: round(statistics.median(found)) for name, found in rates.items()},
        "rows_per_s_rounds": {
            name: [round(rate) for rate in found] for name, found in rates.items()
        },
        "platform_to_bare": round(statistics.median(ratios), 3),
        "platform_to_bare_rounds": [round(ratio, 3) for ratio in ratios],
    }


def bare_process(
    folder: Path, recipe: TrainRecipe, rows: PreparedRows, device: torch.device
) -> float:
    """The plain loop in a process of its own."""
    task = folder / "given.pickle"
    task.write_bytes(pickle.dumps((recipe, rows)))
    out = subprocess.check_output(
        [sys.executable, "-m", "tests.bench.gpu_bare", str(task), str(device)], cwd=ROOT, text=True
    )
    return float(out.strip().splitlines()[-1])


def _cases(folder: Path, device: torch.device, cases: list[Case]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, make, compute, size in cases:
        recipe = make(size, compute)
        rows = given(folder, size, recipe, is_wide=make is gpu_models.wide)
        rates: dict[str, list[float]] = {"platform": [], "bare": []}
        ended_s: list[float] = []
        about = {
            "steps": rows.num_train // recipe.batch_size,
            "batch_size": recipe.batch_size,
            "parameters_million": round(_parameters(recipe, rows) / 1e6, 1),
        }
        # The first round warms the allocator, libraries and files up, and does not count.
        for number in range(size.rounds + 1):
            order = ("platform", "bare") if number % 2 == 0 else ("bare", "platform")
            for kind in order:
                if kind == "bare":
                    rates[kind].append(gpu_bare.train(recipe, rows, device))
                else:
                    place = folder / f"{name}-{number}".replace(" ", "-")
                    rates[kind].append(_platform(recipe, rows, place, device, ended_s))
            if number:
                counted = compared({kind: values[1:] for kind, values in rates.items()})
                found[name] = {**counted, **about, "end_s": round(statistics.median(ended_s), 2)}
                gpu_place.note(folder, found)
    return found


def _platform(
    recipe: TrainRecipe, rows: PreparedRows, place: Path, device: torch.device, ended_s: list[float]
) -> float:
    gpu_models.forget()
    gpu_place.train(recipe, rows, place, gpu_place.alone(device))
    lines = (place / "metrics.jsonl").read_text().splitlines()
    # What the end of the epoch took after its metrics: gathering and writing the checkpoint.
    ended_s.append(time.time() - json.loads(lines[-1])["at_ms"] / 1000)
    found = gpu_place.rate(place, recipe, rows)
    shutil.rmtree(place / FOLDER)
    return found


def _parameters(recipe: TrainRecipe, rows: PreparedRows) -> int:
    from heliostat.training.network import build

    network = build(recipe, rows.inputs, rows.statistics)
    return sum(weight.numel() for weight in network.parameters())
