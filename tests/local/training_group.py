"""A group of workers without Ray: what Ray Train starts, started by hand, so that it can die."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import polars as pl
import torch
import torch.distributed

from heliostat.testing.ports import free_ports
from heliostat.training import loop
from heliostat.training.recipe import TrainRecipe
from heliostat.training.rows import PreparedRows, prepare
from heliostat.training.session import Place, Session


class Mortal(Session):
    """A worker that kills itself at a step."""

    steps_to_live: int | None = None

    def loss(self, output_B: torch.Tensor, label_B: torch.Tensor) -> torch.Tensor:
        """The usual loss, or SIGKILL."""
        if self.steps_to_live is not None:
            self.steps_to_live -= 1
            if self.steps_to_live == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().loss(output_B, label_B)


def made_rows(count: int) -> pl.DataFrame:
    """Rows with a missing number and categories."""
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=count), rng.normal(size=count)
    a[rng.random(count) < 0.1] = np.nan
    c = rng.choice(["x", "y", "z"], count)
    label = (np.nan_to_num(a) + b + (c == "x") > 0).astype(int)
    return pl.DataFrame({"a": a, "b": b, "c": c, "y": label})


def run(recipe: TrainRecipe, folder: Path, *, fatal: tuple[int, int] | None = None) -> list[int]:
    """Train with `recipe.num_workers` processes; return their exit codes.

    Args:
        recipe: For columns a, b, c and label y.
        folder: Made if needed; goes on with what is there.
        fatal: A rank and the step of this try at which it dies.
    """
    folder.mkdir(exist_ok=True)
    rows = prepare(recipe, made_rows(1000), folder / "rows")
    (port,) = free_ports(1)
    spawn = multiprocessing.get_context("spawn")
    group = [
        spawn.Process(target=work, args=(recipe, rows, folder, rank, port, fatal))
        for rank in range(recipe.num_workers)
    ]
    for process in group:
        process.start()
    if fatal is not None:
        group[fatal[0]].join()
        for process in group:
            # As Ray does: without one worker the others are replaced too.
            process.kill()
    for process in group:
        process.join()
    return [process.exitcode or 0 for process in group]


def work(
    recipe: TrainRecipe,
    rows: PreparedRows,
    folder: Path,
    rank: int,
    port: int,
    fatal: tuple[int, int] | None,
) -> None:
    """One worker."""
    world = recipe.num_workers
    if world > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
        )
    session = Mortal(
        recipe, rows, folder, Place(rank=rank, world=world, device=torch.device("cpu"))
    )
    if fatal is not None and fatal[0] == rank:
        session.steps_to_live = fatal[1]
    loop.train(session)
    session.close()
    if world > 1:
        torch.distributed.destroy_process_group()
