"""A driver that `tests.bench.training` starts and kills: one training or one search.

Usage: ``python -m tests.bench.training_driver KIND FOLDER``; prints the id of its MLflow run.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

from heliostat.registry.tracking import Tracking
from heliostat.training import models, runs, tuning
from heliostat.training.compute import Compute, Keep
from heliostat.training.fit import fit
from heliostat.training.recipe import TrainRecipe
from heliostat.training.search import Range, SearchRecipe
from tests.local import training_models
from tests.local.training_group import made_rows

ROOT = Path(__file__).resolve().parents[2]
ROWS = 60_000

RECIPE = TrainRecipe(
    label="y",
    numeric=("a", "b"),
    categorical=("c",),
    model=models.tabular,
    params={"hidden": 64, "blocks": 2, "dropout": 0.1},
    epochs=4,
    batch_size=512,
    num_workers=2,
    log_every_steps=1,
    max_failures=5,
    keep=Keep(every_steps=20),
    compute=Compute(deterministic=True),
)

SEARCH = SearchRecipe(
    space={"learning_rate": Range(low=1e-4, high=1e-2, scale="log")}, num_trials=8
)


def start_ray(num_cpus: int = 2) -> Any:
    """A Ray whose workers import this checkout."""
    import ray

    # As the platform does. Else Ray starts its workers 15 steps nicer than torchrun's, and a process
    # that waits for a spot machine's notice.
    os.environ.update({"RAY_worker_niceness": "0", "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"})
    ray.init(
        address="local", num_cpus=num_cpus, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR", object_store_memory=512 * 1024**2,
        runtime_env={"env_vars": {"PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}"}},
    )  # fmt: skip
    return ray


def main() -> None:
    """Run one kind."""
    kind, folder = sys.argv[1], Path(sys.argv[2])
    tracking = Tracking(f"sqlite:///{folder / 'mlflow.db'}")
    start_ray()
    rows = made_rows(ROWS)
    if kind == "search":
        one = dataclasses.replace(RECIPE, num_workers=1, epochs=3)
        found = tuning.run(
            one, SEARCH, rows, tracking=tracking, experiment="bench", name="search", tags={},
            storage_path=folder,
        )  # fmt: skip
        print(found.run_id, flush=True)
        return
    recipe = RECIPE
    if kind == "raise":
        recipe = dataclasses.replace(
            RECIPE, model=training_models.broken, params={}, max_failures=0
        )
    with runs.tracked(tracking, "bench", kind, {}, folder) as run_id:
        print(run_id, flush=True)
        fit(recipe, rows, tracking=tracking, run_id=run_id, storage_path=folder)


if __name__ == "__main__":
    main()
