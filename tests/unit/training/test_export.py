"""A package answers as the trained network does, and carries what is known about it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from heliostat.errors import ConfigError, HeliostatError
from heliostat.inference.columns import score
from heliostat.inference.predictor import Predictor
from heliostat.inference.torch_network import TorchNetwork
from heliostat.registry import signing
from heliostat.registry.package import ModelInput, PackageDescription, ServingOptions
from heliostat.training import export, models
from heliostat.training.evaluate import evaluate
from heliostat.training.fit import FitResult
from heliostat.training.gates import Gate, judge
from heliostat.training.recipe import TrainRecipe
from heliostat.training.rows import Statistics
from tests.bench import gpu_models

RECIPE = TrainRecipe(label="y", numeric=("a", "b"), categorical=("color",))
INPUTS = (
    ModelInput(name="a", kind="numeric"),
    ModelInput(name="b", kind="numeric"),
    ModelInput(name="color", kind="categorical", vocabulary=("blue", "red")),
)
ROWS = pl.DataFrame(
    {
        "a": [1.0, None, float("nan"), -7.5],
        "b": [100, 200, None, 10**9],
        "color": ["red", None, "green", "blue"],
    }
)
GATE = Gate(name="ranks", metric="auc", threshold=0.9, direction="at_least", why="goal")


def untrained(folder: Path, recipe: TrainRecipe, inputs: tuple[ModelInput, ...]) -> FitResult:
    """A result as a training would bring back, with random weights."""
    import safetensors.torch
    import torch

    from heliostat.training.network import build

    num_numeric = sum(item.kind == "numeric" for item in inputs)
    statistics = Statistics(
        mean=(1.0, 150.0)[:num_numeric],
        deviation=(2.0, 50.0)[:num_numeric],
        has_missing=(True, False)[:num_numeric],
        output_offset=-0.5,
        output_scale=3.0 if recipe.task == "regression" else 1.0,
    )
    torch.manual_seed(0)
    network = build(recipe, inputs, statistics)
    safetensors.torch.save_file(network.state_dict(), folder / "weights.safetensors")
    return FitResult(
        weights=folder / "weights.safetensors",
        inputs=inputs,
        statistics=statistics,
        epochs=({"train_loss": 0.6}, {"train_loss": 0.5}),
        best_epoch=2,
        num_train=1000,
        num_validation=0,
    )


def sorting(inputs: Any) -> Any:
    """A network with an operator that torch does not run for ONNX."""
    import torch

    class Largest(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, numeric: torch.Tensor, categorical: torch.Tensor) -> torch.Tensor:
            return numeric.topk(1, dim=1).values * self.scale + 0 * categorical

    return Largest()


def test_a_package_is_signed_and_answers_the_same_row_by_row_and_in_columns(
    tmp_path: Path,
) -> None:
    """Missing, unknown and absurd values included; every answer is a probability."""
    fitted = untrained(tmp_path, RECIPE, INPUTS)
    package = tmp_path / "package"
    parity = export.write_network(fitted, RECIPE, package, model="tiny", features=None, sample=ROWS)
    scores = score(Predictor.load(package, None), ROWS)
    evaluation = evaluate([1, 0, 1, 0], scores)
    digest = export.finish(
        package, tmp_path / "keys", fitted=fitted.summary, evaluations={"rows": evaluation},
        gates=judge(evaluation.metrics, [GATE]), lineage={"revision": "abc"}, about="A test.",
    )  # fmt: skip

    assert (parity.rows, parity.largest_difference <= 1e-5) == (504, True)
    predictor = Predictor.load(package, tmp_path / "keys")
    assert predictor.digest == digest == signing.verify(package, tmp_path / "keys")
    assert predictor.description.inputs == INPUTS
    by_row = [
        float(predictor.predict({name: [value] for name, value in row.items()})[0])
        for row in ROWS.iter_rows(named=True)
    ]
    np.testing.assert_allclose(scores, by_row, atol=1e-6)
    assert ((scores > 0) & (scores < 1)).all()
    assert len(set(scores.tolist())) == 4
    evidence = json.loads((package / "gates.json").read_text())
    assert (evidence["passed"], evidence["gates"][0]["name"]) == (False, "ranks")
    assert json.loads((package / "lineage.json").read_text()) == {"revision": "abc"}
    card = (package / "card.md").read_text()
    assert card.startswith("# tiny\n\nA test.\n\n## Made from\n\n- revision: abc\n")
    assert "| ranks | auc |" in card


@pytest.mark.parametrize("kind", ["numeric", "categorical"])
def test_a_model_may_have_inputs_of_one_kind_only(kind: str, tmp_path: Path) -> None:
    """The other tensor then does not exist in the network."""
    inputs = tuple(item for item in INPUTS if item.kind == kind)
    recipe = dataclasses.replace(
        RECIPE,
        numeric=("a", "b") if kind == "numeric" else (),
        categorical=("color",) if kind == "categorical" else (),
    )
    fitted = untrained(tmp_path, recipe, inputs)
    export.write_network(fitted, recipe, tmp_path / "p", model="tiny", features=None, sample=ROWS)

    assert score(Predictor.load(tmp_path / "p", None), ROWS).shape == (4,)


def test_a_regression_answers_in_the_unit_of_its_label(tmp_path: Path) -> None:
    """Not as a probability."""
    recipe = dataclasses.replace(RECIPE, task="regression")
    fitted = untrained(tmp_path, recipe, INPUTS)
    export.write_network(fitted, recipe, tmp_path / "p", model="tiny", features=None, sample=ROWS)

    assert score(Predictor.load(tmp_path / "p", None), ROWS).min() < 0


def branching(inputs: Any, **params: Any) -> Any:
    """A network whose answer depends on a Python branch over values: tracing freezes it."""
    import torch

    class Branching(torch.nn.Module):
        def forward(self, numeric: torch.Tensor, categorical: torch.Tensor) -> torch.Tensor:
            column = 0 if bool(numeric.sum() > 1e6) else 1
            return numeric[:, column] + categorical[:, 0]

    return Branching()


def test_an_export_that_answers_differently_is_refused(tmp_path: Path) -> None:
    """Comparing it with torch finds what the exporter could not carry over."""
    recipe = dataclasses.replace(RECIPE, model=branching)
    fitted = untrained(tmp_path, recipe, INPUTS)
    rows = pl.DataFrame({"a": [9e9] * 10**6, "b": [1] * 10**6, "color": ["red"] * 10**6})

    with pytest.raises(HeliostatError, match=r"model\.onnx differs from torch by"):
        export.write_network(
            fitted, recipe, tmp_path / "p", model="tiny", features=None, sample=rows
        )


def test_an_old_package_is_not_written_over(tmp_path: Path) -> None:
    """A folder with anything in it is refused."""
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "old").write_text("x")

    with pytest.raises(ConfigError, match="must be empty"):
        export.write_network(
            untrained(tmp_path, RECIPE, INPUTS), RECIPE, tmp_path / "p",
            model="tiny", features=None, sample=ROWS,
        )  # fmt: skip


@pytest.mark.parametrize("model", [models.tabular, gpu_models.attention])
def test_a_package_for_a_gpu_is_tried_with_torch_before_it_is_signed(
    tmp_path: Path, model: Any
) -> None:
    """Torch answers as ONNX Runtime for any number of rows; the package says where it runs."""
    params = {} if model is models.tabular else {"width": 8, "layers": 2, "heads": 2}
    recipe = dataclasses.replace(RECIPE, model=model, params=params)
    fitted = untrained(tmp_path, recipe, INPUTS)
    package = tmp_path / "package"
    export.write_network(fitted, recipe, package, model="tiny", features=None, sample=ROWS)
    serving = ServingOptions(device="cuda", max_batch_rows=64, batch_wait_s=0.001)
    evaluation = evaluate([1, 0, 1, 0], score(Predictor.load(package, None), ROWS))
    export.finish(
        package, tmp_path / "keys", fitted=fitted.summary, evaluations={"rows": evaluation},
        gates=judge(evaluation.metrics, [GATE]), lineage={}, serving=serving,
    )  # fmt: skip

    assert PackageDescription.read(package).serving == serving
    with_torch = TorchNetwork(package / "model.onnx", torch.device("cpu"))
    on_cpu = Predictor.load(package, tmp_path / "keys", device="cpu")
    tensors = on_cpu.encode({name: ROWS[name].to_list() for name in ROWS.columns})
    for rows in (1, 4):
        numeric, categorical = tensors[0][:rows], tensors[1][:rows]
        feed = {"numeric": numeric, "categorical": categorical}
        answers = with_torch.run(["score"], feed)[0]
        np.testing.assert_allclose(answers, on_cpu.run(numeric, categorical), atol=1e-6)


def test_a_package_that_torch_cannot_run_is_not_signed_for_a_gpu(tmp_path: Path) -> None:
    """Refused while it is made, by the operator's name, not when a server loads it."""
    recipe = dataclasses.replace(RECIPE, model=sorting)
    fitted = untrained(tmp_path, recipe, INPUTS)
    package = tmp_path / "package"
    export.write_network(fitted, recipe, package, model="tiny", features=None, sample=ROWS)
    evaluation = evaluate([1, 0, 1, 0], score(Predictor.load(package, None), ROWS))

    with pytest.raises(ConfigError, match="TopK"):
        export.finish(
            package, tmp_path / "keys", fitted=fitted.summary, evaluations={"rows": evaluation},
            gates=judge(evaluation.metrics, [GATE]), lineage={},
            serving=ServingOptions(device="cuda"),
        )  # fmt: skip
    assert not (package / signing.SIGNATURE).exists()
