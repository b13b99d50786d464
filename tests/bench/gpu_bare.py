"""The plain loop that the platform's is measured against on a GPU: no Ray, log or checkpoint.

Usage: ``python -m tests.bench.gpu_bare GIVEN DEVICE``, with a pickled recipe and prepared rows;
prints rows per second after the first steps.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from heliostat.training.network import build
from heliostat.training.recipe import TrainRecipe
from heliostat.training.rows import PreparedRows

WARM_STEPS = 20


def main() -> None:
    """Train and print."""
    recipe, rows = pickle.loads(Path(sys.argv[1]).read_bytes())
    print(train(recipe, rows, torch.device(sys.argv[2])), flush=True)


def train(recipe: TrainRecipe, rows: PreparedRows, device: torch.device) -> float:
    """Rows per second of one epoch, each batch drawn on the device."""
    precision = recipe.compute.precision
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    read = rows.read_train()
    numeric, categorical, label = (
        torch.tensor(part).to(device)
        for part in (read.numeric_BN, read.categorical_BC, read.label_B)
    )
    torch.manual_seed(recipe.seed)
    model = build(recipe, rows.inputs, rows.statistics).to(device)
    if recipe.compute.compile:
        model.compile()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    size, began = recipe.batch_size, 0.0
    order = torch.randperm(len(label), device=device)
    for done, index in enumerate(order.split(size), start=1):
        optimizer.zero_grad(set_to_none=True)
        for part in index.split(-(-len(index) // recipe.compute.accumulate)):
            with _autocast(precision, device):
                output = model(numeric[part], categorical[part])
            loss = nn.functional.binary_cross_entropy_with_logits(
                output.float(), label[part], reduction="sum"
            )
            (loss / len(index)).backward()
        optimizer.step()
        if done == WARM_STEPS:
            _wait(device)
            began = time.perf_counter()
    _wait(device)
    return (len(label) - WARM_STEPS * size) / (time.perf_counter() - began)


def _autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    if precision == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
