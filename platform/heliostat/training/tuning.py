"""Run a search on Ray Tune: one parent run in MLflow, one child for each trial."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat import config
from heliostat.errors import HeliostatError, Unavailable
from heliostat.registry.tracking import Tracking
from heliostat.telemetry import Progress
from heliostat.training import leftovers, runs, schedulers, search
from heliostat.training.checkpoints import FOLDER, Checkpoints
from heliostat.training.fit import fit
from heliostat.training.picture import Trial, draw
from heliostat.training.recipe import TrainRecipe
from heliostat.training.search import SearchRecipe
from heliostat.training.spool import MetricSpool
from heliostat.training.warden import TAG

if TYPE_CHECKING:
    import polars as pl

PARENT = "mlflow.parentRunId"
_ROWS, _STATE, _EXPERIMENT, _RUN, _DONE = (
    "rows.parquet", "search.json", "tune", "run.json", "done.json",
)  # fmt: skip
_POLL_S = 0.5
_SWEEP_S, _PATIENCE_S = 1.0, 60.0
_SHARED = "shared"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a search found."""

    recipe: TrainRecipe
    """The given recipe with the best trial's values."""

    run_id: str
    """The parent run."""

    trials: tuple[Trial, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """What every trial is given."""

    recipe: TrainRecipe
    search: SearchRecipe
    folder: Path
    tracking: Tracking
    experiment: str
    parent: str
    token: str


def run(
    recipe: TrainRecipe,
    plan: SearchRecipe,
    rows: pl.DataFrame,
    *,
    tracking: Tracking,
    experiment: str,
    name: str,
    tags: Mapping[str, str],
    storage_path: Path,
    progress: Progress | None = None,
) -> Found:
    """Try the search's trials on the cluster this process is connected to.

    Calling again with the same name and storage goes on where a killed driver stopped: trials
    that ended are not run again, and those that ran go on after their last checkpoint.

    Args:
        recipe: What every trial shares.
        plan: What they try.
        rows: Training rows; written once, for all trials.
        tracking: Where the runs are made.
        experiment: Of all runs.
        name: Names the search below `storage_path`, and the parent run.
        tags: Of the parent run.
        storage_path: A folder that driver and all workers can read and write.
        progress: Called with (trials that ended, trials, "trials").

    Raises:
        ConfigError: The space does not fit the recipe, or no trial fits the cluster.
        HeliostatError: No trial ended with a loss.
    """
    search.check(recipe, plan)
    folder = storage_path.resolve() / name
    folder.mkdir(parents=True, exist_ok=True)
    rows.write_parquet(folder / _ROWS)
    state = folder / _STATE
    again = json.loads(state.read_text())["run"] if state.exists() else None
    token = uuid.uuid4().hex
    with runs.tracked(tracking, experiment, name, tags, folder, again=again, token=token) as run_id:
        _write(state, {"run": run_id})
        tracking.log_params(run_id, {"search": config.to_dict(plan)})
        trials = _tune(
            _Plan(
                recipe=recipe, search=plan, folder=folder, tracking=tracking,
                experiment=experiment, parent=run_id, token=token,
            ),
            progress,
        )  # fmt: skip
        best = min(trials, key=lambda trial: trial.best_loss, default=None)
        if best is None or best.best_loss == float("inf"):
            raise HeliostatError(f"search {name}: no trial ended with a validation loss")
        tracking.log_text(run_id, draw(trials), "search.svg")
        tracking.log_dict(run_id, [_plain(trial) for trial in trials], "search.json")
        tracking.log_metrics(run_id, {"best_validation_loss": best.best_loss})
        tracking.set_tags(run_id, {"best_run": best.run_id})
    return Found(recipe=search.applied(recipe, best.values), run_id=run_id, trials=tuple(trials))


def _tune(plan: _Plan, progress: Progress | None) -> list[Trial]:
    import ray
    from ray import tune

    have = ray.cluster_resources()
    concurrent = search.num_concurrent(
        plan.recipe, plan.search, cpus=have.get("CPU", 0.0), gpus=have.get("GPU", 0.0)
    )

    def trial(values: dict[str, Any]) -> None:
        _trial(plan, values)

    # No CPU for the trial's own process: all of them are for workers. Where the driver is, it is
    # known that there is room.
    placed = tune.with_resources(
        trial, tune.PlacementGroupFactory([{"CPU": 0.0, "node:__internal_head__": 0.001}])
    )
    place = plan.folder / _EXPERIMENT
    if tune.Tuner.can_restore(str(place)):
        tuner = tune.Tuner.restore(str(place), placed, resume_unfinished=True, resume_errored=False)
    else:
        tuner = tune.Tuner(
            placed,
            param_space={name: schedulers.domain(kind) for name, kind in plan.search.space.items()},
            tune_config=tune.TuneConfig(
                num_samples=plan.search.num_trials,
                metric="validation_loss",
                mode="min",
                # Tune ignores its own `max_concurrent_trials` beside a random searcher.
                search_alg=schedulers.searcher(plan.search, concurrent),
                scheduler=schedulers.scheduler(plan.search, plan.recipe.num_epochs),
            ),
            run_config=tune.RunConfig(
                name=_EXPERIMENT, storage_path=str(plan.folder), verbose=0,
                callbacks=[_ends(plan, progress)],
            ),
        )  # fmt: skip
    others = leftovers.present()
    with schedulers.without_advice(plan.search):
        tuner.fit()
    # The last trials' CPUs are wanted next, by the training with the best values.
    leftovers.wait_until_gone(others, _PATIENCE_S)
    return [_read(plan, path.parent) for path in sorted(plan.folder.glob(f"trials/*/{_RUN}"))]


def _trial(plan: _Plan, values: dict[str, Any]) -> None:
    """One trial, in a process of its own: fit in a thread, tell Tune each epoch."""
    from ray import tune

    folder = plan.folder / "trials" / tune.get_context().get_trial_id()
    folder.mkdir(parents=True, exist_ok=True)
    recipe = search.applied(plan.recipe, values)
    run_id = _child(plan, folder, values, recipe)
    if plan.search.scheduler == "pbt":
        epoch = _adopt(folder / run_id, tune.get_checkpoint())
        # Parameters of a run cannot change; these do.
        plan.tracking.log_metrics(run_id, search.numbers(values), epoch)
    errors: list[BaseException] = []

    def train() -> None:
        try:
            fit(
                recipe, plan.folder / _ROWS, tracking=plan.tracking, run_id=run_id,
                storage_path=folder,
            )  # fmt: skip
        except BaseException as error:  # noqa: BLE001 - raised in the trial's own thread
            errors.append(error)

    thread = threading.Thread(target=train, name="fit", daemon=True)
    if not (folder / _DONE).exists():
        thread.start()
    spool, told = MetricSpool(folder / run_id), 0
    while True:
        alive = thread.is_alive()
        for epoch, metrics in sorted(spool.epochs().items()):
            if epoch > told and "validation_loss" in metrics:
                told = epoch
                tune.report({**metrics, "epoch": epoch}, checkpoint=_shared(plan, folder / run_id))
        if not alive:
            break
        time.sleep(_POLL_S)
    if errors and not isinstance(errors[0], Unavailable):
        raise errors[0]
    _write(folder / _DONE, {"epochs": told})


def _child(plan: _Plan, folder: Path, values: Mapping[str, Any], recipe: TrainRecipe) -> str:
    """The trial's run: made once, RUNNING again when its trial goes on."""
    noted = folder / _RUN
    tags = {PARENT: plan.parent, TAG: plan.token}
    if noted.exists():
        run_id: str = json.loads(noted.read_text())["run"]
        _write(noted, {"run": run_id, "values": dict(values)})
        if not (folder / _DONE).exists():
            plan.tracking.set_tags(run_id, tags)
            plan.tracking.reopen(run_id)
        return run_id
    run_id = plan.tracking.start_run(plan.experiment, folder.name, tags)
    _write(noted, {"run": run_id, "values": dict(values)})
    plan.tracking.log_params(run_id, config.to_dict(recipe))
    return run_id


def _adopt(folder: Path, checkpoint: Any) -> int:
    """Go on from another trial's checkpoint, which Tune hands over; return its whole epochs."""
    if checkpoint is None:
        return 0
    # The trial's workers before it was paused may be about to go: they must not write once more.
    MetricSpool(folder).wait_for_writer(_PATIENCE_S)
    with checkpoint.as_directory() as given:
        place = json.loads((Path(given) / "checkpoint.json").read_text())["position"]
        shutil.rmtree(folder / FOLDER, ignore_errors=True)
        shutil.copytree(given, folder / FOLDER / f"step-{place['total']:09d}")
    return int(place["epoch"])


def _shared(plan: _Plan, folder: Path) -> Any:
    """What another trial may go on from; only pbt asks for it."""
    from ray import tune

    if plan.search.scheduler != "pbt":
        return None
    checkpoints = Checkpoints(folder / FOLDER, plan.recipe.keep)
    while True:
        shutil.rmtree(folder / _SHARED, ignore_errors=True)
        try:
            newest = checkpoints.newest()
            if newest is None:
                return None
            # Tune copies it, which takes longer than the workers may take to replace it.
            shutil.copytree(newest.folder, folder / _SHARED, copy_function=os.link)
        except (FileNotFoundError, shutil.Error):
            continue
        return tune.Checkpoint.from_directory(str(folder / _SHARED))


def _ends(plan: _Plan, progress: Progress | None) -> Any:
    """End a trial's run when Tune ends the trial, also early, and free its CPUs."""
    from ray import tune

    class Ends(tune.Callback):
        def __init__(self) -> None:
            self._ended = 0
            self._swept_s = 0.0

        def setup(self, *args: Any, **info: Any) -> None:
            del args, info
            # Also of a search that goes on: the clock may have begun anew since it was stored.
            self._swept_s = time.monotonic()

        def on_step_begin(self, iteration: int, trials: Any, **info: Any) -> None:
            del iteration, trials, info
            # A trial that Tune ends or pauses is gone some time after Tune says so.
            if time.monotonic() - self._swept_s >= _SWEEP_S:
                leftovers.remove_orphans()
                self._swept_s = time.monotonic()

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            del iteration, trials, info
            self._end(trial.trial_id, "FINISHED")

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            del iteration, trials, info
            self._end(trial.trial_id, "FAILED")

        def _end(self, trial_id: str, status: Any) -> None:
            folder = plan.folder / "trials" / trial_id
            noted = folder / _RUN
            if noted.exists():
                run_id = json.loads(noted.read_text())["run"]
                # The warden ends what MLflow does not hear of now.
                with suppress(Unavailable):
                    MetricSpool(folder / run_id).send(plan.tracking, run_id)
                    plan.tracking.finish(run_id, status)
            self._ended += 1
            if progress is not None:
                progress(self._ended, plan.search.num_trials, "trials")

    return Ends()


def _read(plan: _Plan, folder: Path) -> Trial:
    noted = json.loads((folder / _RUN).read_text())
    epochs = MetricSpool(folder / noted["run"]).epochs()
    losses = [epochs[epoch].get("validation_loss", float("nan")) for epoch in sorted(epochs)]
    return Trial(
        name=folder.name,
        run_id=noted["run"],
        values=noted["values"],
        losses=tuple(losses),
        status="whole" if len(losses) >= plan.recipe.num_epochs else "stopped",
    )


def _plain(trial: Trial) -> dict[str, Any]:
    return {
        "run": trial.run_id,
        "values": dict(trial.values),
        "losses": list(trial.losses),
        "status": trial.status,
    }


def _write(path: Path, content: Any) -> None:
    scratch = path.with_suffix(".part")
    scratch.write_text(json.dumps(content), encoding="utf-8")
    scratch.replace(path)
