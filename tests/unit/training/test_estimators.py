"""Estimators beside networks: fitted in one worker, kept as ONNX that answers the same."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from heliostat.errors import ConfigError, HeliostatError
from heliostat.inference import edge
from heliostat.inference.columns import score
from heliostat.inference.predictor import Predictor
from heliostat.registry import pickles, signing
from heliostat.registry.package import ServingOptions
from heliostat.training import estimator_loop, estimator_onnx, estimators, export, models, network
from heliostat.training.checkpoints import FOLDER, Checkpoints
from heliostat.training.compute import Compute
from heliostat.training.evaluate import evaluate
from heliostat.training.fit import FitResult
from heliostat.training.gates import Gate, judge
from heliostat.training.recipe import TrainRecipe, Validation
from heliostat.training.rows import prepare
from heliostat.training.session import Place, Session
from heliostat.training.spool import MetricSpool

RECIPE = TrainRecipe(
    label="paid",
    numeric=("age", "spent"),
    categorical=("shop",),
    model=estimators.boosted_trees,
    params={"rounds": 30},
    learner="estimator",
    num_workers=1,
    validation=Validation(share=0.2),
)
GATE = Gate(
    name="ranks", metric="auc", threshold=0.7, direction="at_least", why="it can be learned"
)


def rows(count: int = 3000) -> pl.DataFrame:
    """Rows with missing numbers, a missing and a rare shop, and numbers that repeat."""
    rng = np.random.default_rng(5)
    age, spent = np.round(rng.normal(40, 10, count), 1), rng.normal(0, 1, count)
    shop = rng.choice(["north", "south", "west"], count)
    odds = (age - 40) / 10 + spent + 2 * (shop == "north") - 0.7
    paid = rng.random(count) < 1 / (1 + np.exp(-odds))
    gone = rng.random(count) < 0.1
    return pl.DataFrame(
        {
            "age": [None if index % 7 == 0 else value for index, value in enumerate(age)],
            "spent": np.where(gone, np.nan, spent),
            "shop": [None if index % 11 == 0 else name for index, name in enumerate(shop)],
            "paid": paid,
            "amount": 100 * np.nan_to_num(spent) + age,
        }
    )


def trained(recipe: TrainRecipe, folder: Path) -> FitResult:
    """What `fit` brings back, without Ray."""
    folder.mkdir(exist_ok=True)
    prepared = prepare(recipe, rows(), folder / "rows")
    session = Session(recipe, prepared, folder, Place(rank=0, world=1, device=torch.device("cpu")))
    estimator_loop.train(session)
    session.close()
    (made,) = Checkpoints(folder / FOLDER, recipe.keep).whole()
    return FitResult(
        weights=made.folder / (pickles.ALLOWED if recipe.pickle else estimator_onnx.NETWORK),
        inputs=prepared.inputs,
        statistics=prepared.statistics,
        epochs=(MetricSpool(folder).epochs()[1],),
        best_epoch=1,
        num_train=prepared.num_train,
        num_validation=prepared.num_validation,
    )


@pytest.mark.parametrize("task", ["binary", "regression"])
@pytest.mark.parametrize(
    "model", [estimators.boosted_trees, estimators.xgboost_trees, estimators.linear]
)
def test_the_network_answers_as_the_estimator_does(model: Any, task: Any, tmp_path: Path) -> None:
    """On real rows with missing numbers and categories, on unknown and on absurd ones."""
    recipe = dataclasses.replace(
        RECIPE,
        model=model,
        task=task,
        label="paid" if task == "binary" else "amount",
        params={} if model is estimators.linear else {"rounds": 30},
    )
    fitted = trained(recipe, tmp_path / "run")
    package = tmp_path / "package"
    parity = export.write_network(
        fitted, recipe, package, model="shop", features=None, sample=rows(10)
    )

    assert (parity.rows, parity.largest_difference <= 1e-6) == (1000, True)
    assert sorted(path.name for path in package.iterdir()) == [
        "MLmodel", "model.json", "model.onnx",
    ]  # fmt: skip
    found = evaluate(
        rows()[recipe.label].to_numpy(), score(Predictor.load(package, None), rows()), task=task
    )
    learned = found.metrics["auc"] > 0.75 if task == "binary" else found.metrics["r2"] > 0.8
    assert learned
    assert fitted.epochs[0]["validation_loss"] > 0


def test_a_package_of_trees_is_signed_and_answers_one_row_as_many(tmp_path: Path) -> None:
    """Gates, card and signature are those of any model; nothing in it is a pickle."""
    fitted = trained(RECIPE, tmp_path / "run")
    package = tmp_path / "package"
    export.write_network(fitted, RECIPE, package, model="shop", features=None, sample=rows(10))
    evaluation = evaluate(rows()["paid"].to_numpy(), score(Predictor.load(package, None), rows()))
    gates = judge(evaluation.metrics, [GATE])
    export.finish(
        package, tmp_path / "keys", fitted=fitted.summary, evaluations={"rows": evaluation},
        gates=gates, lineage={"revision": "abc"},
    )  # fmt: skip

    signing.verify(package, tmp_path / "keys")
    assert json.loads((package / "gates.json").read_text())["passed"] is True
    assert "epoch 1 of 1 was kept" in (package / "card.md").read_text()
    predictor = Predictor.load(package, tmp_path / "keys")
    odd = pl.DataFrame(
        {
            "age": [None, 41.5, float("inf"), -1e38],
            "spent": [float("nan"), 0.0, None, float("-inf")],
            "shop": ["nowhere", None, "north", "west"],
        }
    )
    together = score(predictor, odd)
    alone = [
        float(predictor.predict({name: [value] for name, value in row.items()})[0])
        for row in odd.iter_rows(named=True)
    ]
    assert together.tolist() == pytest.approx(alone, abs=1e-6)
    assert np.isfinite(together).all()
    numeric, categorical = predictor.encode({name: odd[name].to_list() for name in odd.columns})
    report = edge.export(
        package, tmp_path / "keys", tmp_path / "edge", numeric_BN=numeric,
        categorical_BC=categorical,
    )  # fmt: skip
    assert (report.quantised, report.largest_difference) == (False, 0.0)


def test_the_loss_of_each_round_is_logged_and_a_whole_training_is_not_repeated(
    tmp_path: Path,
) -> None:
    """Every tenth of 30 rounds is a point; a second try finds the first one's result."""
    trained(RECIPE, tmp_path / "run")
    lines = [
        json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    steps = {
        line["step"]: line["metrics"]["step/validation_loss"]
        for line in lines
        if line["series"] == "step"
    }
    assert list(steps) == [10, 20, 30]
    epochs = MetricSpool(tmp_path / "run").epochs()
    assert epochs[1]["validation_loss"] == pytest.approx(steps[30])
    assert steps[30] < steps[10]

    broken = dataclasses.replace(RECIPE, model=not_an_estimator)
    assert trained(broken, tmp_path / "run").num_train == 2400


def not_an_estimator(inputs: Any, *, task: str, **params: Any) -> Any:
    """A factory that makes something else."""
    return object()


def only_in_python(inputs: Any, *, task: str, **params: Any) -> Any:
    """An estimator that is a function of the trainer's, which no server has."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    return make_pipeline(FunctionTransformer(np.nan_to_num), LogisticRegression())


def test_what_cannot_be_fitted_or_served_is_refused(tmp_path: Path) -> None:
    """An object without fit, an estimator without a network, a network in its place."""
    with pytest.raises(ConfigError) as error:
        trained(dataclasses.replace(RECIPE, model=not_an_estimator), tmp_path / "a")
    assert str(error.value) == (
        "train.model = 'object': must make an estimator with fit and predict_proba"
    )
    with pytest.raises(HeliostatError, match="must be one that skl2onnx converts"):
        trained(dataclasses.replace(RECIPE, model=only_in_python, params={}), tmp_path / "b")
    prepared = prepare(RECIPE, rows(), tmp_path / "c")
    recipe = TrainRecipe(label="paid", numeric=("age",), model=plain_object)
    with pytest.raises(ConfigError, match="must make a torch module; for an estimator say learner"):
        network.build(recipe, prepared.inputs, prepared.statistics)


def test_a_pickle_is_kept_only_if_the_recipe_asks_for_it(tmp_path: Path) -> None:
    """What cannot become ONNX is signed, judged and answers; devices and GPUs refuse it.

    Another pickle beside it, or the same one without the recipe's word, is refused.
    """
    recipe = dataclasses.replace(RECIPE, model=only_in_python, params={}, pickle=True)
    fitted = trained(recipe, tmp_path / "run")
    package, keys = tmp_path / "package", tmp_path / "keys"
    parity = export.write_network(
        fitted, recipe, package, model="shop", features=None, sample=rows(10)
    )
    assert (parity.rows, parity.largest_difference <= 1e-6) == (1000, True)
    evaluation = evaluate(rows()["paid"].to_numpy(), score(Predictor.load(package, None), rows()))
    told: Any = {
        "fitted": fitted.summary, "evaluations": {"rows": evaluation},
        "gates": judge(evaluation.metrics, [GATE]), "lineage": {"revision": "abc"},
    }  # fmt: skip
    with pytest.raises(ConfigError, match="must be cpu for a pickled estimator"):
        export.finish(package, keys, **told, serving=ServingOptions(device="cuda"))
    export.finish(package, keys, **told)

    assert json.loads((package / "gates.json").read_text())["passed"] is True
    assert "**A pickle.**" in (package / "card.md").read_text()
    assert sorted(path.name for path in package.iterdir() if "model." in path.name) == [
        "model.json", "model.pkl", "model.sig",
    ]  # fmt: skip
    predictor = Predictor.load(package, keys)
    numeric, categorical = predictor.encode({"age": [40], "spent": [None], "shop": ["west"]})
    with pytest.raises(ConfigError, match="devices open no pickles"):
        edge.export(
            package, keys, tmp_path / "edge", numeric_BN=numeric, categorical_BC=categorical
        )
    shutil.copyfile(package / "model.pkl", package / "extra.bin")
    with pytest.raises(ConfigError, match=r"extra\.bin, model\.pkl': must hold no pickle"):
        signing.sign(package, keys)
    (package / "extra.bin").unlink()
    dataclasses.replace(predictor.description, network="onnx").write(package)
    with pytest.raises(ConfigError, match=r"model\.pkl': must hold no pickle"):
        signing.sign(package, keys)


def test_a_network_is_never_a_pickle() -> None:
    """The recipe's word is for estimators."""
    with pytest.raises(ConfigError) as error:
        TrainRecipe(label="y", numeric=("a",), pickle=True)
    assert str(error.value).startswith("train.pickle = True: must be false")


def plain_object(inputs: Any, **params: Any) -> Any:
    """A factory for the other kind of learner."""
    return object()


def test_an_answer_that_differs_is_refused(tmp_path: Path) -> None:
    """A converter with a fault is found by the answers that the worker kept."""
    import safetensors.numpy

    fitted = trained(RECIPE, tmp_path / "run")
    path = fitted.weights.with_name(estimator_onnx.ANSWERS)
    kept = safetensors.numpy.load_file(path)
    kept["score"][7] += 1e-3
    safetensors.numpy.save_file(kept, path)

    with pytest.raises(HeliostatError, match=r"model\.onnx differs from the estimator by 0\.001"):
        export.write_network(
            fitted, RECIPE, tmp_path / "p", model="shop", features=None, sample=rows(10)
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_workers": 2}, "train.num_workers = 2: must be 1 with learner"),
        ({"feed": "stream"}, "train.feed = 'stream': must be 'map' with learner"),
        ({"use_gpu": True}, "train.use_gpu = True: must be False with learner"),
        ({"loop": estimator_loop.train}, "train.loop = "),
        ({"compute": Compute(precision="bfloat16")}, "train.compute = "),
    ],
)
def test_what_means_nothing_to_an_estimator_is_refused(changes: Any, message: str) -> None:
    """A recipe that says it would otherwise be trained in another way than it says."""
    with pytest.raises(ConfigError) as error:
        dataclasses.replace(RECIPE, **changes)
    assert str(error.value).startswith(message)


def test_the_usual_recipe_is_still_a_network() -> None:
    """Only `learner` chooses."""
    recipe = TrainRecipe(label="y", numeric=("a",))

    assert (recipe.learner, recipe.model, recipe.num_epochs) == ("network", models.tabular, 6)
