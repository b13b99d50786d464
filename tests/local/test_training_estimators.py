"""Boosted trees on Ray: tracked, judged, signed, registered and served as a network is."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from heliostat.inference import columns
from heliostat.inference.predictor import Predictor
from heliostat.registry.versions import Registry
from heliostat.store.home import Home
from heliostat.training import estimators, export, record, runs
from heliostat.training.evaluate import EvaluationPlan, evaluate
from heliostat.training.fit import fit
from heliostat.training.gates import Gate, judge
from heliostat.training.recipe import TrainRecipe, Validation
from tests.local.training_group import made_rows
from tests.unit.registry.mlflow_database import tracking_in

RECIPE = TrainRecipe(
    label="y",
    numeric=("a", "b"),
    categorical=("c",),
    model=estimators.boosted_trees,
    params={"rounds": 40},
    learner="estimator",
    num_workers=1,
    validation=Validation(share=0.2),
)
GATES = (
    Gate(name="ranks", metric="auc", threshold=0.9, direction="at_least", why="it can be learned"),
    Gate(
        name="everywhere", metric="worst_slice_loss", threshold=0.5, direction="at_most",
        why="no category may be left out",
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    "recipe",
    [RECIPE, pytest.param(dataclasses.replace(RECIPE, pickle=True), marks=pytest.mark.proof)],
    ids=["onnx", "pickle"],
)
def test_trees_go_from_rows_to_a_verified_version_that_answers(
    ray_session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: TrainRecipe
) -> None:
    """One run with parameters, data versions and losses; the version answers as what was judged.

    So does the estimator itself, where the recipe asks for a pickle.
    """
    tracking, home = tracking_in(tmp_path, monkeypatch), Home(root=tmp_path / "home")
    rows = made_rows(3000)
    learn, unseen = rows.head(2500), rows.tail(500)
    told: list[tuple[int, int | None, str]] = []
    with runs.tracked(tracking, "exp", "trees", {}, tmp_path) as run_id:
        record.record(
            tracking, run_id, recipe, data_versions={"rows": 3}, revision="abc", changes="+1\n"
        )
        fitted = fit(
            recipe, learn, tracking=tracking, run_id=run_id, storage_path=tmp_path,
            progress=lambda *done: told.append(done),
        )  # fmt: skip
        package = tmp_path / "package"
        export.write_network(
            fitted, recipe, package, model="trees", features=None, sample=learn.head(50)
        )
        scores = columns.score(Predictor.load(package, None), unseen)
        found = evaluate(
            unseen["y"].to_numpy(), scores, slices={"c": unseen["c"].to_list()},
            plan=EvaluationPlan(slices=("c",), slice_min_rows=50),
        )  # fmt: skip
        gates = judge(found.judged, GATES)
        digest = export.finish(
            package, home.keys, fitted=fitted.summary, evaluations={"unseen": found},
            gates=gates, lineage={"run": run_id, "revision": "abc"},
        )  # fmt: skip
        made = Registry(tracking, home).register(package, "trees", run_id, gates.tags())

    assert gates.passed
    assert (tracking.status(run_id), told[-1]) == ("FINISHED", (1, 1, "epochs"))
    losses = tracking.metric_history(run_id, "step/validation_loss")
    assert [step for step, _ in losses] == [10, 20, 30, 40]
    assert tracking.metric_history(run_id, "validation_loss") == [
        (1, fitted.epochs[0]["validation_loss"])
    ]
    version = Registry(tracking, home).get("trees", made.version)
    assert version.digest == digest
    assert version.tags["gate.ranks"].startswith("met: auc 0.9")
    served = Predictor.load(version.path, home.keys, digest=digest)
    assert columns.score(served, unseen).tolist() == scores.tolist()
    one = unseen.row(0, named=True)
    del one["y"]
    assert float(served.predict({name: [value] for name, value in one.items()})[0]) == (
        pytest.approx(float(scores[0]), abs=1e-6)
    )
    unknown = pl.DataFrame({"a": [None], "b": [0.0], "c": ["never seen"]})
    assert 0 < float(columns.score(served, unknown)[0]) < 1
