"""A search's plan is refused before anything starts, and its trials always fit the cluster."""

from __future__ import annotations

import dataclasses
from xml.etree import ElementTree as ET

import pytest

from heliostat.errors import ConfigError
from heliostat.training import search
from heliostat.training.compute import Compute
from heliostat.training.picture import Trial, draw
from heliostat.training.recipe import TrainRecipe, Validation
from heliostat.training.search import Choice, Range, SearchRecipe

RECIPE = TrainRecipe(label="y", numeric=("a",), params={"hidden": 8}, num_workers=2)
SPACE = {
    "learning_rate": Range(low=1e-4, high=1e-2, scale="log"),
    "params.hidden": Choice(options=(8, 16)),
    "epochs": Range(low=1, high=4, whole=True),
}


def test_a_trials_values_become_fields_of_the_recipe() -> None:
    """As ``--set`` would put them there."""
    values = {"learning_rate": 0.005, "params.hidden": 16, "epochs": 3}

    assert search.applied(RECIPE, values) == dataclasses.replace(
        RECIPE, learning_rate=0.005, params={"hidden": 16}, epochs=3
    )
    search.check(RECIPE, SearchRecipe(space=SPACE))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"learning_rat": Range(low=1, high=2)}, "has no field 'learning_rat'"),
        ({"params.width": Choice(options=(1, 2))}, "has no key 'width'"),
        ({"learning_rate": Range(low=-1.0, high=1.0)}, "train.learning_rate = -1.0"),
        ({"epochs": Range(low=1.5, high=2.0)}, "must be int"),
    ],
)
def test_a_space_that_does_not_fit_is_refused_before_anything_starts(
    space: dict[str, Range | Choice], message: str
) -> None:
    """Not by the third trial."""
    with pytest.raises(ConfigError) as error:
        search.check(RECIPE, SearchRecipe(space=space))
    assert message in str(error.value)


def test_a_value_that_left_its_range_comes_back_to_the_nearest_bound() -> None:
    """A search by pbt multiplies values; a rate above the range might not even be a valid field."""
    values = {"learning_rate": 0.012, "params.hidden": 16, "epochs": 0, "seed": 5}

    assert search.within(SPACE, values) == {
        "learning_rate": 1e-2, "params.hidden": 16, "epochs": 1, "seed": 5,
    }  # fmt: skip


def test_a_search_needs_rows_to_compare_trials_on() -> None:
    """The training loss would choose the trial that learned its rows by heart."""
    blind = dataclasses.replace(RECIPE, validation=Validation(share=0))
    with pytest.raises(ConfigError) as error:
        search.check(blind, SearchRecipe(space=SPACE))
    assert str(error.value).startswith("train.validation.share = 0")


@pytest.mark.parametrize(
    ("cpus", "cpus_per_worker", "feed", "wanted", "expected"),
    [
        (2, 1.0, "map", None, 1),
        (8, 1.0, "map", None, 4),
        (8, 1.0, "map", 3, 3),
        (8, 0.5, "map", None, 8),
        (8, 0.5, "stream", None, 7),
        (100, 1.0, "map", None, 8),
    ],
)
def test_as_many_trials_run_as_all_their_workers_fit(
    cpus: float, cpus_per_worker: float, feed: str, wanted: int | None, expected: int
) -> None:
    """So that no trial ever holds a CPU that another one waits for."""
    recipe = dataclasses.replace(
        RECIPE,
        feed=feed,  # type: ignore[arg-type]
        compute=Compute(cpus_per_worker=cpus_per_worker),
    )
    plan = SearchRecipe(space=SPACE, max_concurrent=wanted)
    assert search.num_concurrent(recipe, plan, cpus=cpus, gpus=0) == expected


def test_a_trial_that_never_fits_is_refused() -> None:
    """Instead of waiting for ever; GPUs count too."""
    plan = SearchRecipe(space=SPACE)
    with pytest.raises(ConfigError) as error:
        search.num_concurrent(RECIPE, plan, cpus=1, gpus=0)
    assert str(error.value) == (
        "train.num_workers = 2: must fit the cluster; one trial takes 2 of its 1 CPUs"
    )
    on_gpu = dataclasses.replace(RECIPE, use_gpu=True)
    assert search.num_concurrent(on_gpu, plan, cpus=16, gpus=4) == 2
    with pytest.raises(ConfigError):
        search.num_concurrent(on_gpu, plan, cpus=16, gpus=1)


def test_the_picture_names_the_best_trial_first_and_survives_odd_losses() -> None:
    """NaN, a trial without an epoch, and characters that XML keeps for itself."""
    nan = float("nan")
    trials = [
        Trial(name="t1", run_id="1", values={"a": "<x>"}, losses=(0.5, nan), status="stopped"),
        Trial(name="t2", run_id="2", values={"a": "y"}, losses=(0.6, 0.4), status="whole"),
        Trial(name="t3", run_id="3", values={}, losses=(), status="stopped"),
    ]
    root = ET.fromstring(draw(trials))
    texts = [item.text or "" for item in root.iter("{http://www.w3.org/2000/svg}text")]

    assert texts[0] == "validation loss by epoch, 0.4000 to 0.6000"
    assert texts[1] == "1. 0.4000 whole t2 a=y"
    assert texts[2] == "2. 0.5000 stopped t1 a=<x>"
    assert texts[3] == "3. inf stopped t3 "
