"""Searches on Ray Tune, run to their end: each scheduler, a parent and its children in MLflow."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any, Literal

import pytest

from heliostat.registry.tracking import Tracking
from heliostat.training import estimators, leftovers, tuning
from heliostat.training.recipe import TrainRecipe, Validation
from heliostat.training.search import Choice, Range, SearchRecipe
from tests.local.training_group import made_rows
from tests.unit.registry.mlflow_database import tracking_in

RECIPE = TrainRecipe(
    label="y",
    numeric=("a", "b"),
    categorical=("c",),
    params={"hidden": 8, "blocks": 1, "dropout": 0.0},
    epochs=3,
    batch_size=128,
    num_workers=1,
    validation=Validation(share=0.2),
)
RATES = {"learning_rate": Range(low=1e-4, high=3e-2, scale="log")}


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    return tracking_in(tmp_path, monkeypatch)


def _search(
    tracking: Tracking, folder: Path, plan: SearchRecipe, recipe: TrainRecipe = RECIPE
) -> tuning.Found:
    return tuning.run(
        recipe, plan, made_rows(800), tracking=tracking, experiment="exp", name="s", tags={},
        storage_path=folder,
    )  # fmt: skip


def _check(tracking: Tracking, folder: Path, found: tuning.Found, num_trials: int) -> None:
    """The parent and every child have ended, and the picture shows each trial."""
    assert tracking.status(found.run_id) == "FINISHED"
    assert len(found.trials) == num_trials
    with tracking._answering() as client:
        for trial in found.trials:
            run = client.get_run(trial.run_id)
            assert run.info.status == "FINISHED"
            assert run.data.tags[tuning.PARENT] == found.run_id
        listed = client.download_artifacts(found.run_id, "search.json", str(folder))
        picture = client.download_artifacts(found.run_id, "search.svg", str(folder))
    assert {trial["run"] for trial in json.loads(Path(listed).read_text())} == {
        trial.run_id for trial in found.trials
    }
    assert Path(picture).read_text().count("<polyline") == num_trials
    best = min(found.trials, key=lambda trial: trial.best_loss)
    assert tracking.metric_history(found.run_id, "best_validation_loss") == [(0, best.best_loss)]


def test_a_search_over_estimators_ends_with_the_best(
    ray_session: Any, tracking: Tracking, tmp_path: Path
) -> None:
    """Each trial is one fit; asking again after the end repeats none of them."""
    recipe = dataclasses.replace(
        RECIPE, learner="estimator", model=estimators.boosted_trees, params={"rounds": 5}
    )
    plan = SearchRecipe(space={"params.rounds": Choice(options=(1, 20))}, num_trials=2, seed=3)
    found = _search(tracking, tmp_path, plan, recipe)

    _check(tracking, tmp_path, found, 2)
    assert {trial.status for trial in found.trials} == {"whole"}
    best = min(found.trials, key=lambda trial: trial.best_loss)
    assert found.recipe.params == {"rounds": best.values["params.rounds"]}
    again = _search(tracking, tmp_path, plan, recipe)
    assert again.run_id == found.run_id
    assert {trial.run_id: trial.losses for trial in again.trials} == {
        trial.run_id: trial.losses for trial in found.trials
    }


def test_cpus_of_a_maker_that_was_killed_come_back_and_those_of_others_stay(
    ray_session: Any,
) -> None:
    """As with the controller of a trial that asha ends; Ray alone would keep them."""

    @ray_session.remote(num_cpus=0)
    class Maker:
        def make(self) -> None:
            from ray.util.placement_group import placement_group

            assert placement_group([{"CPU": 0.9}]).wait(30)

    from ray.util.placement_group import placement_group, remove_placement_group

    own = placement_group([{"CPU": 0.001}])
    assert own.wait(30)
    killed, living = Maker.remote(), Maker.remote()
    ray_session.get([killed.make.remote(), living.make.remote()])
    both = leftovers.present()
    assert len(both) == 2
    assert leftovers.remove_orphans() == 0
    ray_session.kill(killed)
    assert not leftovers.wait_until_gone(set(), 3.0)
    (left,) = leftovers.present()
    assert left in both
    assert leftovers.wait_until_gone({left}, 5.0)
    ray_session.kill(living)
    assert leftovers.wait_until_gone(set(), 30.0)
    assert own.wait(1)
    remove_placement_group(own)


@pytest.mark.proof
@pytest.mark.parametrize(
    ("searcher", "scheduler"),
    [("random", "all"), ("optuna", "asha"), ("random", "asha"), ("random", "pbt")],
)
def test_every_kind_of_search_runs_to_its_end(
    ray_session: Any,
    tracking: Tracking,
    tmp_path: Path,
    searcher: Literal["random", "optuna"],
    scheduler: Literal["all", "asha", "pbt"],
) -> None:
    """Four trials of up to three epochs; those that asha stops have ended too."""
    plan = SearchRecipe(space=RATES, num_trials=4, searcher=searcher, scheduler=scheduler)
    found = _search(tracking, tmp_path, plan)

    _check(tracking, tmp_path, found, 4)
    whole = [trial for trial in found.trials if trial.status == "whole"]
    assert whole
    if scheduler == "all":
        assert len(whole) == 4
    assert all(1 <= len(trial.losses) <= 3 for trial in found.trials)
    assert RATES["learning_rate"].low <= found.recipe.learning_rate <= RATES["learning_rate"].high
    if scheduler == "pbt":
        for trial in found.trials:
            changes = tracking.metric_history(trial.run_id, "search/learning_rate")
            assert changes[0][0] == 0
            assert trial.values["learning_rate"] in [value for _, value in changes]
    # The next training needs them, and so does the next search in this Ray.
    assert leftovers.present() == set()
    until_s = time.monotonic() + 60
    # Ray counts what is free a moment after it is.
    while ray_session.available_resources().get("CPU") != 2:
        assert time.monotonic() < until_s
        time.sleep(0.1)
