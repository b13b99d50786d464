"""Train a recipe on Ray workers and bring back weights and metrics."""

from __future__ import annotations

import os
import shutil
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.config import require
from heliostat.errors import HeliostatError, Unavailable
from heliostat.registry import pickles
from heliostat.registry.package import ModelInput
from heliostat.registry.tracking import Tracking
from heliostat.telemetry import Progress
from heliostat.training import estimator_onnx
from heliostat.training.checkpoints import FOLDER, Checkpoints, best
from heliostat.training.recipe import TrainRecipe
from heliostat.training.rows import PreparedRows, Statistics, prepare
from heliostat.training.spool import MetricSpool

if TYPE_CHECKING:
    import polars as pl

_POLL_S = 0.3


class TrainingFailed(HeliostatError):
    """The workers failed more often than the recipe allows; carries the first worker's error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FitSummary:
    """A finished training in numbers."""

    num_train: int
    num_validation: int
    num_epochs: int

    best_epoch: int
    """Counts from 1: the epoch of least validation loss, or the last one without validation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FitResult:
    """A finished training."""

    weights: Path
    """Safetensors file of the best epoch's network, statistics included; of an estimator its
    ONNX network or its pickle, with ``answers.safetensors`` beside it."""

    inputs: tuple[ModelInput, ...]
    """Numeric inputs, then categorical ones with the vocabularies that were found."""

    statistics: Statistics

    epochs: tuple[Mapping[str, float], ...]
    """Metrics of each epoch, the first one first."""

    best_epoch: int
    """As in `FitSummary`."""

    num_train: int
    num_validation: int

    @property
    def summary(self) -> FitSummary:
        """The numbers alone."""
        return FitSummary(
            num_train=self.num_train,
            num_validation=self.num_validation,
            num_epochs=len(self.epochs),
            best_epoch=self.best_epoch,
        )


def fit(
    recipe: TrainRecipe,
    rows: pl.DataFrame | Path,
    *,
    tracking: Tracking | None,
    run_id: str,
    storage_path: Path,
    progress: Progress | None = None,
) -> FitResult:
    """Train on `recipe.num_workers` Ray workers, on the cluster this process is connected to.

    The caller owns the MLflow run: it stays RUNNING, and each epoch's metrics appear there
    while training goes on, or at the end if MLflow was away. Calling again with the same
    `run_id` and `storage_path` goes on after the last whole checkpoint; a finished training
    trains no further.

    Args:
        recipe: What to train.
        rows: Training rows, or a Parquet file or folder of such files.
        tracking: Where metrics go; None keeps them in the result only.
        run_id: Names the training below `storage_path`, and the MLflow run.
        storage_path: A folder that driver and all workers can read and write. Encoded rows,
            checkpoints and weights go to ``storage_path/run_id``.
        progress: Called with (epochs done, epochs, "epochs") as they end.

    Raises:
        ConfigError: The rows do not fit the recipe, or its model cannot be built.
        TrainingFailed: Workers failed more often than `recipe.max_failures`.
        Unavailable: MLflow was away at the end; call again to log what is missing.
    """
    folder = storage_path.resolve() / run_id
    folder.mkdir(parents=True, exist_ok=True)
    prepared = prepare(recipe, rows, folder / "rows")
    spool = MetricSpool(folder)
    with _watch(spool, tracking, run_id, recipe.num_epochs, progress):
        _run(recipe, prepared, folder)
    if tracking is not None:
        spool.send(tracking, run_id)
    chosen = best(Checkpoints(folder / FOLDER, recipe.keep).whole())
    names = _ends_with(recipe)
    for name in names:
        scratch = folder / f"{name}.part"
        shutil.copyfile(chosen.folder / name, scratch)
        scratch.replace(folder / name)
    shutil.rmtree(prepared.folder)
    epochs = spool.epochs()
    return FitResult(
        weights=folder / names[0],
        inputs=prepared.inputs,
        statistics=prepared.statistics,
        epochs=tuple(epochs[epoch] for epoch in sorted(epochs)),
        best_epoch=chosen.position.epoch,
        num_train=prepared.num_train,
        num_validation=prepared.num_validation,
    )


def _ends_with(recipe: TrainRecipe) -> tuple[str, ...]:
    """Files of a checkpoint that are a training's result, the network first."""
    if recipe.learner == "network":
        return ("weights.safetensors",)
    network = pickles.ALLOWED if recipe.pickle else estimator_onnx.NETWORK
    return network, estimator_onnx.ANSWERS


def _run(recipe: TrainRecipe, prepared: PreparedRows, folder: Path) -> None:
    """Run the workers to the end."""
    import ray.data
    import ray.train
    from ray.train.torch import TorchTrainer

    from heliostat.training.worker import SHARD, Task, train

    datasets: dict[str, Any] = {}
    if recipe.feed == "stream":
        _refuse_starved_stream(recipe)
        datasets[SHARD] = ray.data.read_parquet(str(prepared.stream))
    # Ray annotates a number, and takes a pair for elastic training.
    num_workers: Any = recipe.num_workers
    elastic: dict[str, Any] = {"elastic_resize_monitor_interval_s": recipe.resize_check_s}
    if recipe.min_workers is not None:
        num_workers = (recipe.min_workers, recipe.num_workers)
    trainer = TorchTrainer(
        train,
        train_loop_config={"task": Task(recipe=recipe, rows=prepared, folder=folder)},
        datasets=datasets,
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_workers,
            **elastic,
            use_gpu=recipe.use_gpu,
            resources_per_worker={
                "CPU": recipe.compute.cpus_per_worker,
                **({"GPU": 1} if recipe.use_gpu else {}),
            },
        ),
        run_config=ray.train.RunConfig(
            # Ray would go on with a state of the same name; ours is in `folder`, and whole.
            name=f"ray-{uuid.uuid4().hex[:8]}",
            storage_path=str(folder),
            failure_config=ray.train.FailureConfig(max_failures=recipe.max_failures),
        ),
    )
    # Ray looks at its workers every 2 s and takes one report of each at a look, so an epoch of
    # less than 2 s would wait for the rest of them. A look takes time from every worker, so not ten
    # of them a second either. The variable is read at `fit`.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    try:
        trainer.fit()
    except ray.train.WorkerGroupError as error:
        raise _cause(error) from error


def _refuse_starved_stream(recipe: TrainRecipe) -> None:
    """Reading needs a CPU that no worker holds, or the workers wait for ever."""
    import ray

    have = ray.cluster_resources().get("CPU", 0.0)
    taken = recipe.num_workers * recipe.compute.cpus_per_worker
    require(
        have - taken >= 1, "train.compute.cpus_per_worker", recipe.compute.cpus_per_worker,
        f"must leave a CPU for reading; {recipe.num_workers} workers take {taken:g} of {have:g}",
    )  # fmt: skip


def _cause(error: Any) -> HeliostatError:
    """Return our own error that a worker raised, if any; else one that carries the first."""
    for rank in sorted(error.worker_failures):
        failure = error.worker_failures[rank]
        while failure is not None:
            if isinstance(failure, HeliostatError):
                return failure
            failure = getattr(failure, "cause", None) or failure.__cause__
    return TrainingFailed(str(error))


@contextmanager
def _watch(
    spool: MetricSpool,
    tracking: Tracking | None,
    run_id: str,
    num_epochs: int,
    progress: Progress | None,
) -> Iterator[None]:
    """Send metrics and tell progress while this thread waits for Ray.

    The driver does it and not the controller: it has MLflow loaded already.
    """
    done = threading.Event()

    def watch() -> None:
        told = -1
        ended = False
        while not ended:
            ended = done.wait(_POLL_S)
            count = len(spool.epochs())
            if count != told and progress is not None:
                progress(count, num_epochs, "epochs")
            told = count
            if tracking is not None:
                # Training goes on without MLflow; what is missing is sent at the end.
                with suppress(Unavailable):
                    spool.send(tracking, run_id)

    thread = threading.Thread(target=watch, name="training progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
