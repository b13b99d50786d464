"""A package whose network runs on a GPU: its answers beside the CPU's, and what batches bring."""

from __future__ import annotations

import asyncio
import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from heliostat.inference.columns import score
from heliostat.inference.predictor import Predictor
from heliostat.inference.torch_network import TorchNetwork
from heliostat.registry.package import PackageDescription, ServingOptions
from heliostat.serving import batching
from heliostat.training.compute import Compute
from heliostat.training.recipe import TrainRecipe
from tests.bench import gpu_models, gpu_place
from tests.bench.gpu_models import Size

LIMIT = 1e-5
BATCHED = ServingOptions(device="cuda", max_batch_rows=64, batch_wait_s=0.001)
CLIENTS, SECONDS, ROUNDS = 64, 1.5, 5
ROW_COUNTS = (1, 8, 64, 512)
SERVED = dataclasses.replace(
    gpu_models.FULL, wide_rows=180_000, wide={"hidden": 1024, "blocks": 4, "dropout": 0.1},
    tokens_rows=48_000, tokens={"width": 256, "layers": 4, "heads": 8},
)  # fmt: skip
"""A CPU must answer the same rows, on one core."""


def answers(folder: Path, device: torch.device, size: Size) -> dict[str, Any]:
    """Both networks, trained a little, exported, and answering on CPU and device."""
    short = SERVED if size.wide == gpu_models.FULL.wide else size
    found = {}
    for name, make, count in (
        ("wide", gpu_models.wide, short.wide_rows),
        ("attention", gpu_models.tokens, short.tokens_rows),
    ):
        frame = gpu_models.made(count)
        made = package(make(short, Compute()), frame, folder / name, device)
        found[name] = _measured(made, device, frame.head(1024))
    return found


def opened(package: Path, device: torch.device) -> Predictor:
    """As a server opens it; in a rehearsal torch runs it on the CPU."""
    if device.type == "cuda":
        return Predictor.load(package, None)
    description = PackageDescription.read(package)
    return Predictor(description, TorchNetwork(package / "model.onnx", device), "")


def package(recipe: TrainRecipe, frame: pl.DataFrame, folder: Path, device: torch.device) -> Path:
    """A package of `gpu_place.package` for servers that batch on a GPU."""
    made = gpu_place.package(recipe, frame, folder, device)
    description = PackageDescription.read(made)
    dataclasses.replace(description, serving=BATCHED).write(made)
    return made


def _measured(package: Path, device: torch.device, frame: pl.DataFrame) -> dict[str, Any]:
    on_cpu = Predictor.load(package, None, device="cpu")
    began = time.perf_counter()
    on_device = opened(package, device)
    load_s = time.perf_counter() - began
    wanted, found = score(on_cpu, frame), score(on_device, frame)
    gap = float(np.abs(found - wanted).max())
    columns = {item.name: frame[item.name].to_list() for item in on_device.description.inputs}
    tensors = on_device.encode(columns)
    return {
        "rows": frame.height,
        "largest_difference": gap,
        "limit": LIMIT,
        "held": gap <= LIMIT,
        "load_s": round(load_s, 2),
        "milliseconds": {
            kind: {
                str(rows): _milliseconds(
                    lambda p=predictor, n=rows: p.run(tensors[0][:n], tensors[1][:n])
                )
                for rows in ROW_COUNTS
                if rows <= frame.height and (kind == "device" or rows <= 64)
            }
            for kind, predictor in (("device", on_device), ("cpu", on_cpu))
        },
        "batches_pay": batching.pays(on_device),
        **_batches(on_device, columns),
    }


def _milliseconds(run: Callable[[], Any]) -> float:
    taken = []
    for _ in range(25):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return round(1000 * statistics.median(taken[5:]), 3)


def _batches(predictor: Predictor, columns: dict[str, list[Any]]) -> dict[str, Any]:
    """Answers per second to clients that each ask for one row after the other."""
    options = predictor.description.serving
    rates: dict[str, list[float]] = {"one_by_one": [], "batched": []}
    sizes = []
    for number in range(ROUNDS):
        kinds = ("one_by_one", "batched") if number % 2 == 0 else ("batched", "one_by_one")
        for kind in kinds:
            batcher = batching.Batcher(
                predictor, max_rows=options.max_batch_rows if kind == "batched" else 1,
                wait_s=options.batch_wait_s,
            )  # fmt: skip
            answered, passed_s = asyncio.run(_ask(batcher, columns))
            rates[kind].append(answered / passed_s)
            if kind == "batched":
                sizes.append(answered / batcher.num_batches)
    ratios = [b / a for a, b in zip(rates["one_by_one"], rates["batched"], strict=True)]
    return {
        "clients": CLIENTS,
        "answers_per_s": {kind: round(statistics.median(found)) for kind, found in rates.items()},
        "answers_per_s_rounds": {kind: [round(r) for r in found] for kind, found in rates.items()},
        "batched_to_one_by_one": round(statistics.median(ratios), 2),
        "batched_to_one_by_one_rounds": [round(ratio, 2) for ratio in ratios],
        "rows_per_batch": round(statistics.median(sizes), 1),
    }


async def _ask(batcher: batching.Batcher, columns: dict[str, list[Any]]) -> tuple[int, float]:
    began = time.perf_counter()
    answered = 0

    async def client(number: int) -> None:
        nonlocal answered
        row = {name: [values[number]] for name, values in columns.items()}
        while time.perf_counter() - began < SECONDS:
            await batcher.predict(row, 1)
            answered += 1
            # One by one, nothing else gives the loop back.
            await asyncio.sleep(0)

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    return answered, time.perf_counter() - began
