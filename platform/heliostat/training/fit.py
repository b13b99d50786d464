"""Train a recipe on Ray workers and bring back weights and metrics."""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.errors import HeliostatError, Unavailable
from heliostat.registry.package import ModelInput
from heliostat.registry.tracking import Tracking
from heliostat.telemetry import Progress
from heliostat.training.recipe import TrainRecipe
from heliostat.training.rows import PreparedRows, Statistics, prepare
from heliostat.training.spool import KeepReports, MetricSpool

if TYPE_CHECKING:
    import polars as pl

_POLL_S = 0.3
_WEIGHTS = "weights.safetensors"


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
    """Safetensors file of the best epoch's network, statistics included."""

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
    `run_id` and `storage_path` goes on after the last whole epoch; a finished training
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
    with _watch(spool, tracking, run_id, recipe.epochs, progress):
        checkpoints = _run(recipe, prepared, KeepReports(folder), folder)
    if tracking is not None:
        spool.send(tracking, run_id)
    steps = dict(spool.read())
    best, source = _best(steps, checkpoints)
    scratch = folder / f"{_WEIGHTS}.part"
    shutil.copyfile(source / _WEIGHTS, scratch)
    weights = scratch.replace(folder / _WEIGHTS)
    shutil.rmtree(prepared.folder)
    return FitResult(
        weights=weights,
        inputs=prepared.inputs,
        statistics=prepared.statistics,
        epochs=tuple(steps[epoch] for epoch in sorted(steps)),
        best_epoch=best,
        num_train=prepared.num_train,
        num_validation=prepared.num_validation,
    )


def _run(
    recipe: TrainRecipe, prepared: PreparedRows, reports: KeepReports, folder: Path
) -> list[tuple[int, Path]]:
    """Run the workers; return the kept checkpoints with their epochs."""
    import ray.train
    from ray.train.torch import TorchTrainer

    from heliostat.training.worker import Task, train

    trainer = TorchTrainer(
        train,
        train_loop_config={"task": Task(recipe=recipe, rows=prepared)},
        scaling_config=ray.train.ScalingConfig(
            num_workers=recipe.num_workers, use_gpu=recipe.use_gpu
        ),
        run_config=ray.train.RunConfig(
            name="ray",
            storage_path=str(folder),
            failure_config=ray.train.FailureConfig(max_failures=recipe.max_failures),
            checkpoint_config=_kept(recipe),
            callbacks=[_callback(reports)],
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.WorkerGroupError as error:
        raise _cause(error) from error
    return [
        (int(metrics["epoch"]), Path(checkpoint.path))
        for checkpoint, metrics in result.best_checkpoints or ()
    ]


def _kept(recipe: TrainRecipe) -> Any:
    """Keep the best and, since Ray resumes from it, the last checkpoint."""
    import ray.train

    if recipe.validation.share == 0:
        return ray.train.CheckpointConfig(num_to_keep=1)
    return ray.train.CheckpointConfig(
        num_to_keep=1,
        checkpoint_score_attribute="validation_loss",
        checkpoint_score_order="min",
    )


def _callback(reports: KeepReports) -> Any:
    import ray.train

    class Callback(ray.train.UserCallback):
        def after_report(self, run_context: Any, metrics: Any, checkpoint: Any) -> None:
            del run_context, checkpoint
            reports.report(metrics)

    return Callback()


def _cause(error: Any) -> HeliostatError:
    """Return our own error that a worker raised, if any; else one that carries the first."""
    for rank in sorted(error.worker_failures):
        failure = error.worker_failures[rank]
        while failure is not None:
            if isinstance(failure, HeliostatError):
                return failure
            failure = getattr(failure, "cause", None) or failure.__cause__
    return TrainingFailed(str(error))


def _best(
    steps: Mapping[int, Mapping[str, float]], checkpoints: Sequence[tuple[int, Path]]
) -> tuple[int, Path]:
    """Of the checkpoints that were kept, the one of least validation loss, or else the last."""

    def badness(checkpoint: tuple[int, Path]) -> tuple[float, int]:
        loss = steps[checkpoint[0]].get("validation_loss", math.inf)
        return (loss if math.isfinite(loss) else math.inf, -checkpoint[0])

    return min(checkpoints, key=badness)


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
            count = len(spool.read())
            if count == told:
                continue
            told = count
            if progress is not None:
                progress(count, num_epochs, "epochs")
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
