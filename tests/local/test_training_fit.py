"""Training on real Ray workers: it learns, it is logged once, and lost workers change nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from heliostat.errors import ConfigError
from heliostat.inference import columns
from heliostat.inference.predictor import Predictor
from heliostat.registry.tracking import Tracking
from heliostat.training import export, models
from heliostat.training.compute import Compute
from heliostat.training.evaluate import evaluate
from heliostat.training.fit import fit
from heliostat.training.recipe import TrainRecipe, Validation
from tests.local import training_models
from tests.unit.registry.mlflow_database import tracking_in

RECIPE = TrainRecipe(
    label="bought",
    numeric=("age", "spent"),
    categorical=("shop",),
    model=training_models.fragile,
    epochs=4,
    batch_size=256,
    learning_rate=1e-2,
    validation=Validation(share=0.1, time_column="day"),
)


def _rows() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    age, spent = rng.normal(40, 10, 4000), rng.normal(0, 1, 4000)
    spent[rng.random(4000) < 0.1] = np.nan
    shop = rng.choice(["north", "south", "west"], 4000)
    logit = (age - 40) / 10 + np.nan_to_num(spent) + (shop == "north") - 0.5
    return pl.DataFrame(
        {
            "age": age,
            "spent": spent,
            "shop": shop,
            "day": np.arange(4000),
            "bought": rng.random(4000) < 1 / (1 + np.exp(-logit)),
        }
    )


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    return tracking_in(tmp_path, monkeypatch)


@pytest.mark.proof
def test_a_lost_worker_changes_no_weight_and_no_metric(
    ray_session: Any, tracking: Tracking, tmp_path: Path
) -> None:
    """A process killed in the third epoch is replaced; bit for bit the same model comes out."""
    rows = _rows()
    told: list[tuple[int, int | None, str]] = []
    results = []
    for name, params in (
        ("calm", {}),
        ("rough", {"marker": str(tmp_path / "died"), "fatal_step": 35}),
    ):
        run_id = tracking.start_run("exp", name, {})
        results.append((run_id, fit(
            dataclasses.replace(RECIPE, params=params), rows, tracking=tracking, run_id=run_id,
            storage_path=tmp_path / "training", progress=lambda *done: told.append(done),
        )))  # fmt: skip
    (calm_id, calm), (rough_id, rough) = results

    assert (tmp_path / "died").exists()
    assert rough.weights.read_bytes() == calm.weights.read_bytes()
    assert (rough.epochs, rough.best_epoch) == (calm.epochs, calm.best_epoch)
    assert (calm.num_train, calm.num_validation, len(calm.epochs)) == (3600, 400, 4)
    losses = [epoch["validation_loss"] for epoch in calm.epochs]
    assert calm.epochs[calm.best_epoch - 1]["validation_loss"] == min(losses)
    for run_id in (calm_id, rough_id):
        history = tracking.metric_history(run_id, "validation_loss")
        assert history == list(enumerate(losses, start=1))
    assert tracking.status(calm_id) == "RUNNING"
    assert told[-1] == (4, 4, "epochs")

    package = tmp_path / "package"
    export.write_network(calm, RECIPE, package, model="shop", features=None, sample=rows.head(100))
    measured = evaluate(
        rows["bought"].to_numpy(), columns.score(Predictor.load(package, None), rows)
    )
    assert measured.metrics["auc"] > 0.75
    assert measured.metrics["log_loss"] < 0.9 * measured.metrics["base_rate_log_loss"]


@pytest.mark.proof
def test_one_and_two_workers_learn_the_same_whole_or_split(
    ray_session: Any, tmp_path: Path
) -> None:
    """The same global batch gives the same losses: alone, with DDP, and with FSDP."""
    plain = dataclasses.replace(
        RECIPE,
        model=models.tabular,
        params={"hidden": 16, "blocks": 1, "dropout": 0.0},
        unknown_ratio=0.0,
        epochs=2,
    )
    found = {}
    for name, num_workers, strategy in (("one", 1, "ddp"), ("ddp", 2, "ddp"), ("fsdp", 2, "fsdp")):
        recipe = dataclasses.replace(
            plain, num_workers=num_workers, compute=Compute(strategy=strategy)
        )
        found[name] = fit(recipe, _rows(), tracking=None, run_id=name, storage_path=tmp_path).epochs

    for name in ("ddp", "fsdp"):
        for alone, together in zip(found["one"], found[name], strict=True):
            assert dict(together) == pytest.approx(dict(alone), rel=1e-5)


@pytest.mark.proof
def test_a_stream_feeds_every_row_and_learns(ray_session: Any, tmp_path: Path) -> None:
    """Ray Data reads with the CPU that the workers leave; 3,591 rows go to two workers."""
    recipe = dataclasses.replace(
        RECIPE,
        model=training_models.counting,
        params={"folder": str(tmp_path)},
        feed="stream",
        epochs=2,
        compute=Compute(cpus_per_worker=0.5),
    )
    rows = _rows().head(3990)
    found = fit(recipe, rows, tracking=None, run_id="stream", storage_path=tmp_path)

    assert (found.num_train, found.num_validation) == (3591, 399)
    seen = [int(path.read_text()) for path in tmp_path.glob("rows-*")]
    # One row comes twice in each epoch, so that both workers have as many.
    assert sum(seen) == 2 * 3592
    assert found.epochs[1]["train_loss"] < found.epochs[0]["train_loss"]


def test_a_stream_that_no_cpu_could_read_is_refused(ray_session: Any, tmp_path: Path) -> None:
    """Instead of waiting for ever."""
    recipe = dataclasses.replace(RECIPE, feed="stream")

    with pytest.raises(ConfigError) as error:
        fit(recipe, _rows(), tracking=None, run_id="r", storage_path=tmp_path)
    assert str(error.value) == (
        "train.compute.cpus_per_worker = 1.0: must leave a CPU for reading; 2 workers take 2 of 2"
    )


def test_an_error_of_ours_in_a_worker_reaches_the_driver_as_itself(
    ray_session: Any, tracking: Tracking, tmp_path: Path
) -> None:
    """Type and message survive the way out of the worker."""
    recipe = dataclasses.replace(
        RECIPE, model=training_models.impossible, params={"a": 1}, max_failures=0
    )

    with pytest.raises(ConfigError) as error:
        fit(recipe, _rows(), tracking=None, run_id="r", storage_path=tmp_path)
    assert str(error.value) == "train.params = {'a': 1}: must be empty; training_models"
