"""A training in this process, as a worker runs it, on a CPU or a GPU."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import nn

from heliostat.training import export, loop, settle
from heliostat.training.checkpoints import FOLDER, Checkpoints
from heliostat.training.fit import FitResult
from heliostat.training.recipe import TrainRecipe
from heliostat.training.rows import PreparedRows, prepare
from heliostat.training.session import Place, Session
from heliostat.training.spool import MetricSpool
from tests.bench import gpu_models


class Tried(Session):
    """May die at a step, and may split or copy the network though it is alone."""

    steps_to_live: int | None = None
    spreads = False

    def loss(self, output_B: torch.Tensor, label_B: torch.Tensor) -> torch.Tensor:
        """The usual loss, or SIGKILL."""
        if self.steps_to_live is not None:
            self.steps_to_live -= 1
            if self.steps_to_live == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(output_B, label_B)

    def _spread(self, network: nn.Module) -> nn.Module:
        if not self.spreads:
            return super()._spread(network)
        return settle.spread(network, self.recipe.compute, self.place.device, self.place.world)


def train(
    recipe: TrainRecipe,
    rows: PreparedRows,
    folder: Path,
    place: Place,
    *,
    fatal: int | None = None,
    spreads: bool = False,
) -> None:
    """Train in `folder`, or go on there."""
    folder.mkdir(parents=True, exist_ok=True)
    session = Tried(recipe, rows, folder, place)
    session.steps_to_live, session.spreads = fatal, spreads
    try:
        loop.train(session)
    finally:
        session.close()


def package(recipe: TrainRecipe, frame: pl.DataFrame, folder: Path, device: torch.device) -> Path:
    """Train and export in `folder`; the package is not signed."""
    rows = prepare(recipe, frame, folder / "rows")
    train(recipe, rows, folder, alone(device))
    newest = Checkpoints(folder / FOLDER, recipe.keep).newest()
    assert newest is not None
    fitted = FitResult(
        weights=newest.folder / "weights.safetensors", inputs=rows.inputs,
        statistics=rows.statistics, epochs=({},), best_epoch=1, num_train=rows.num_train,
        num_validation=0,
    )  # fmt: skip
    target = folder / "package"
    export.write_network(
        fitted, recipe, target, model="tried", features=None, sample=frame.head(200)
    )
    return target


def alone(device: torch.device) -> Place:
    """The only worker."""
    return Place(rank=0, world=1, device=device)


def losses(folder: Path) -> list[dict[str, float]]:
    """Train and validation loss of each epoch."""
    return [
        {name: metrics[name] for name in ("train_loss", "validation_loss") if name in metrics}
        for _, metrics in sorted(MetricSpool(folder).epochs().items())
    ]


def gap(one: list[dict[str, float]], other: list[dict[str, float]]) -> float:
    """Largest relative difference of two trainings' losses."""
    pairs = [
        (mine[name], theirs[name]) for mine, theirs in zip(one, other, strict=True) for name in mine
    ]
    return max(abs(a - b) / abs(b) for a, b in pairs)


def weights(recipe: TrainRecipe, folder: Path) -> bytes:
    """The newest checkpoint's."""
    newest = Checkpoints(folder / FOLDER, recipe.keep).newest()
    assert newest is not None
    return (newest.folder / "weights.safetensors").read_bytes()


def rate(folder: Path, recipe: TrainRecipe, rows: PreparedRows) -> float:
    """Rows per second from the mark of the recipe's loss to the end of the first epoch.

    The step in which the mark falls counts as done: its other half makes the rate a little too
    low. The epoch's end has waited for the device.
    """
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    end = next(point for point in map(json.loads, lines) if point["series"] == "epoch")
    steps = -(-(gpu_models.WARM_CALLS + 1) // recipe.compute.accumulate)
    passed_s = end["at_ms"] / 1000 - float(gpu_models.MARK.read_text())
    return float((rows.num_train - steps * recipe.batch_size) / passed_s)


def note(folder: Path, found: dict[str, Any]) -> None:
    """Keep a part's figures so far: a part that is cut off has them."""
    scratch = folder / "found.part"
    scratch.write_text(json.dumps(found), encoding="utf-8")
    scratch.replace(folder / "found.json")
