"""What Ray Train starts in each worker. Imports torch and Ray Train: only for Ray workers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch

from heliostat.training import estimator_loop, loop
from heliostat.training.recipe import TrainRecipe
from heliostat.training.rows import PreparedRows
from heliostat.training.session import Place, Session

SHARD = "train"


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What every worker is given."""

    recipe: TrainRecipe
    rows: PreparedRows
    folder: Path
    """Shared by driver and workers: metrics and checkpoints."""


def train(config: dict[str, Any]) -> None:
    """Run the recipe's loop, or the built-in one."""
    task: Task = config["task"]
    context = ray.train.get_context()
    # Compiled networks belong to the training, not to a folder of the machine.
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(task.folder / "compiled"))
    place = Place(
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=ray.train.torch.get_device(),
        report=ray.train.report,
        leaving=lambda: ray.train.get_preemption_info() is not None,
        shard=ray.train.get_dataset_shard(SHARD) if task.recipe.feed == "stream" else None,
    )
    session = Session(task.recipe, task.rows, task.folder, place)
    try:
        built_in = estimator_loop.train if task.recipe.learner == "estimator" else loop.train
        (task.recipe.loop or built_in)(session)
    finally:
        session.close()
