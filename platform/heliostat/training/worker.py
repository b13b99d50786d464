"""The training loop of one worker. Imports torch and Ray Train: only for Ray workers.

The rows of a step depend on seed, epoch and step alone, not on the number of workers, and
random numbers are seeded anew for each epoch and rank. So a training that goes on after the
last whole epoch ends with the same weights as one that never stopped.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray.train
import ray.train.torch
import safetensors.torch
import torch
import torch.distributed
from torch import Tensor, nn

from heliostat.training.network import build
from heliostat.training.recipe import TrainRecipe
from heliostat.training.rows import PreparedRows

WEIGHTS = "weights.safetensors"
_OPTIMIZER = "optimizer.pt"
_PROGRESS = "progress.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What every worker is given."""

    recipe: TrainRecipe
    rows: PreparedRows


def train(config: dict[str, Any]) -> None:
    """Train all epochs that are left; report metrics and a checkpoint after each."""
    task: Task = config["task"]
    recipe = task.recipe
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    network = build(recipe, task.rows.inputs, task.rows.statistics)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    first = _restore(network, optimizer)
    model = ray.train.torch.prepare_model(network)
    learn = _Rows(task.rows, "train", device)
    held = _Rows(task.rows, "validation", device)
    steps = math.ceil(len(learn) / recipe.batch_size)
    for epoch in range(first, recipe.epochs):
        _seed(recipe.seed, epoch, rank)
        order = np.random.default_rng((recipe.seed, epoch)).permutation(len(learn))
        model.train()
        total = torch.zeros(1, device=device)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate * _rate(
                    epoch * steps + step, recipe.epochs * steps
                )
            batch = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            if len(batch) < world:
                break
            loss = _loss(recipe, model, learn.take(batch[rank::world]))
            optimizer.zero_grad(set_to_none=True)
            # The workers' gradients are averaged; this makes the average one over all rows.
            (loss * world / len(batch)).backward()
            optimizer.step()
            total += loss.detach()
        metrics = {"train_loss": _sum(total, world) / len(learn), "epoch": float(epoch + 1)}
        metrics["learning_rate"] = float(optimizer.param_groups[0]["lr"])
        if len(held):
            metrics["validation_loss"] = _sum(
                _held_loss(recipe, network, held, rank, world), world
            ) / len(held)
        _report(network, optimizer, metrics, rank)


class _Rows:
    """All rows of one part on the device; a step takes some by number."""

    def __init__(self, rows: PreparedRows, part: str, device: torch.device) -> None:
        read = rows.read_train() if part == "train" else rows.read_validation()
        self._numeric = torch.from_numpy(read.numeric_BN).to(device)
        self._categorical = torch.from_numpy(read.categorical_BC).to(device)
        self._label = torch.from_numpy(read.label_B).to(device)

    def __len__(self) -> int:
        return len(self._label)

    def take(self, numbers: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor, Tensor]:
        index = torch.from_numpy(np.ascontiguousarray(numbers)).to(self._label.device)
        return self._numeric[index], self._categorical[index], self._label[index]

    def shards(self, rank: int, world: int, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for start in range(rank * size, len(self), world * size):
            part = slice(start, start + size)
            yield self._numeric[part], self._categorical[part], self._label[part]


def _loss(recipe: TrainRecipe, model: nn.Module, rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Sum over the rows."""
    numeric, categorical, label = rows
    output = model(numeric, categorical)
    if recipe.task == "binary":
        return nn.functional.binary_cross_entropy_with_logits(output, label, reduction="sum")
    return nn.functional.mse_loss(output, label, reduction="sum")


@torch.no_grad()
def _held_loss(
    recipe: TrainRecipe, network: nn.Module, held: _Rows, rank: int, world: int
) -> Tensor:
    network.eval()
    total = torch.zeros(1, device=next(network.parameters()).device)
    for rows in held.shards(rank, world, 8192):
        total += _loss(recipe, network, rows)
    return total


def _sum(value: Tensor, world: int) -> float:
    if world > 1:
        torch.distributed.all_reduce(value)
    return float(value)


def _rate(step: int, num_steps: int) -> float:
    warm = max(1, num_steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, num_steps - warm)))


def _seed(seed: int, epoch: int, rank: int) -> None:
    # The low 63 bits: torch takes an int64.
    words = np.random.SeedSequence((seed, epoch, rank)).generate_state(1, np.uint64)
    torch.manual_seed(int(words[0]) >> 1)


def _report(
    network: nn.Module, optimizer: torch.optim.Optimizer, metrics: dict[str, float], rank: int
) -> None:
    if rank != 0:
        ray.train.report(metrics)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        state = {name: value.contiguous() for name, value in network.state_dict().items()}
        safetensors.torch.save_file(state, folder / WEIGHTS)
        torch.save(optimizer.state_dict(), folder / _OPTIMIZER)
        (folder / _PROGRESS).write_text(json.dumps(metrics), encoding="utf-8")
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))


def _restore(network: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load the last whole checkpoint, if any; return the epoch to begin with."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as name:
        folder = Path(name)
        network.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
        # weights_only: a checkpoint may hold tensors and numbers, never code.
        optimizer.load_state_dict(torch.load(folder / _OPTIMIZER, weights_only=True))
        return int(json.loads((folder / _PROGRESS).read_text(encoding="utf-8"))["epoch"])
