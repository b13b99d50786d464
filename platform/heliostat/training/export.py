"""Turn a finished training into a package: network, description, evidence, card, signature."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from heliostat.config import require
from heliostat.errors import HeliostatError
from heliostat.inference.columns import encode
from heliostat.inference.predictor import Predictor
from heliostat.registry import mlmodel, sbom, signing
from heliostat.registry.package import (
    FeatureServiceReference,
    ModelInput,
    PackageDescription,
    ServingOptions,
)
from heliostat.training import card, estimator_onnx
from heliostat.training.evaluate import Evaluation
from heliostat.training.fit import FitResult, FitSummary
from heliostat.training.gates import GateReport
from heliostat.training.oddities import with_oddities
from heliostat.training.recipe import TrainRecipe

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

    from heliostat.training.network import AnsweringNetwork

PARITY_LIMIT = 1e-5
"""Largest difference between what was trained and the exported network, in probability, or in
standard deviations of the label or parts of the answer, whichever is larger."""

OUTPUT = "score"
_AS_USUAL = ServingOptions()


@dataclass(frozen=True, kw_only=True, slots=True)
class Parity:
    """How closely the exported network follows the trained one."""

    rows: int
    largest_difference: float


def write_network(
    fitted: FitResult,
    recipe: TrainRecipe,
    package_dir: Path,
    *,
    model: str,
    features: FeatureServiceReference | None,
    sample: pl.DataFrame,
) -> Parity:
    """Write the network, ``weights.safetensors`` and descriptions into a new folder.

    Of an estimator there are no weights, and the worker that fitted it has chosen the rows on
    which the export must agree.

    Args:
        fitted: The training.
        recipe: What it was trained by.
        package_dir: Must not exist or be empty.
        model: Name of the model.
        features: Where a server finds the inputs; None if requests carry them.
        sample: Rows on which the export must agree with torch; made-up ones, with missing and
            unknown values, are added.

    Raises:
        ConfigError: The folder is not empty.
        HeliostatError: The exported network answers differently; it must not be used.
    """
    package_dir.mkdir(parents=True, exist_ok=True)
    require(not any(package_dir.iterdir()), "package", str(package_dir), "must be empty")
    description = PackageDescription(
        model=model, inputs=fitted.inputs, output=OUTPUT, features=features,
        network="pickle" if recipe.pickle else "onnx",
    )  # fmt: skip
    description.write(package_dir)
    mlmodel.write(description, package_dir)
    if recipe.learner == "estimator":
        return _write_estimator(fitted, package_dir)
    network = _load(fitted, recipe)
    shutil.copyfile(fitted.weights, package_dir / "weights.safetensors")
    _write_onnx(network, fitted.inputs, package_dir / "model.onnx")
    return _compare(network, fitted, package_dir, sample)


def _write_estimator(fitted: FitResult, package_dir: Path) -> Parity:
    import safetensors.numpy

    shutil.copyfile(fitted.weights, package_dir / PackageDescription.read(package_dir).file)
    answers = safetensors.numpy.load_file(fitted.weights.with_name(estimator_onnx.ANSWERS))
    answered_B = Predictor.load(package_dir, None).run(answers["numeric"], answers["categorical"])
    return _parity(fitted, answered_B, answers["score"], "the estimator")


def finish(
    package_dir: Path,
    keys_dir: Path,
    *,
    fitted: FitSummary,
    evaluations: Mapping[str, Evaluation],
    gates: GateReport,
    lineage: Mapping[str, Any],
    about: str = "",
    serving: ServingOptions = _AS_USUAL,
) -> str:
    """Add evidence, lineage, card and bill of materials to a package, sign it and return its content digest.

    Signing says who made a package, not that it is good: that is for the gates, whose refusal
    is the caller's to raise.

    Args:
        package_dir: As `write_network` left it.
        keys_dir: Signing key, created on first use.
        fitted: The training in numbers.
        evaluations: What was measured, by the name of the rows.
        gates: What the gates saw.
        lineage: Plain values: recipe, data versions, revision, environment, run.
        about: A few sentences for the card: what the model is for, and what not.
        serving: Where servers run the network, and how many rows at once.

    Raises:
        ConfigError: The network is to run on a GPU and is a pickle, or has an operator that
            torch does not run.
        HeliostatError: There it would answer differently.
    """
    description = replace(PackageDescription.read(package_dir), serving=serving)
    require(
        description.network == "onnx" or serving.device == "cpu",
        "serving.device", serving.device, "must be cpu for a pickled estimator",
    )  # fmt: skip
    if serving.device == "cuda":
        _compare_with_torch(package_dir)
    description.write(package_dir)
    evidence = {
        "evaluations": {name: item.to_dict() for name, item in evaluations.items()},
        "gates": gates.to_dict(),
        "passed": gates.passed,
    }
    _write_json(package_dir / "gates.json", evidence)
    _write_json(package_dir / "lineage.json", lineage)
    text = card.render(description, fitted, evaluations, gates, lineage, about)
    (package_dir / "card.md").write_text(text, encoding="utf-8")
    digests = {
        path.relative_to(package_dir).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(package_dir.rglob("*"))
        if path.is_file() and path.name not in (signing.SIGNATURE, sbom.FILE)
    }
    materials = sbom.render(description.model, lineage.get("environment", ()), digests)
    (package_dir / sbom.FILE).write_text(materials, encoding="utf-8")
    return signing.sign(package_dir, keys_dir)


def _load(fitted: FitResult, recipe: TrainRecipe) -> AnsweringNetwork:
    import safetensors.torch

    from heliostat.training.network import AnsweringNetwork, build

    network = build(recipe, fitted.inputs, fitted.statistics)
    network.load_state_dict(safetensors.torch.load_file(fitted.weights))
    kinds = {item.kind for item in fitted.inputs}
    return AnsweringNetwork(
        network,
        probability=recipe.task == "binary",
        has_numeric="numeric" in kinds,
        has_categorical="categorical" in kinds,
    ).eval()


def _write_onnx(network: AnsweringNetwork, inputs: Sequence[ModelInput], path: Path) -> None:
    import torch

    names, example = [], []
    num_numeric = sum(item.kind == "numeric" for item in inputs)
    num_categorical = len(inputs) - num_numeric
    if num_numeric:
        names.append("numeric")
        example.append(torch.zeros(2, num_numeric))
    if num_categorical:
        names.append("categorical")
        example.append(torch.zeros(2, num_categorical, dtype=torch.int64))
    with warnings.catch_warnings():
        # The older exporter takes 0.2 s where the newer one takes 4.6 s (torch 2.13), and
        # what it traces wrongly is caught by the comparison below.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            tuple(example),
            str(path),
            input_names=names,
            output_names=[OUTPUT],
            dynamic_axes={name: {0: "rows"} for name in (*names, OUTPUT)},
            dynamo=False,
        )


def _compare(
    network: AnsweringNetwork, fitted: FitResult, package_dir: Path, sample: pl.DataFrame
) -> Parity:
    import torch

    numeric_BN, categorical_BC = with_oddities(
        fitted.inputs, fitted.statistics, *encode(sample, fitted.inputs)
    )
    answers_B = Predictor.load(package_dir, None).run(numeric_BN, categorical_BC)
    tensors = []
    if network.has_numeric:
        tensors.append(torch.from_numpy(numeric_BN))
    if network.has_categorical:
        tensors.append(torch.from_numpy(categorical_BC))
    with torch.no_grad():
        expected_B = network(*tensors).numpy()
    return _parity(fitted, answers_B, expected_B, "torch")


def _parity(
    fitted: FitResult, answers_B: NDArray[Any], expected_B: NDArray[Any], whose: str
) -> Parity:
    # A huge answer, to a huge number, has float32's error of its own size.
    unit_B = np.maximum(fitted.statistics.output_scale, np.abs(expected_B))
    gap = float((np.abs(answers_B - expected_B) / unit_B).max())
    if not gap <= PARITY_LIMIT:
        raise HeliostatError(
            f"model.onnx differs from {whose} by {gap:.3g}, at most {PARITY_LIMIT:g} is allowed:"
            " the model does something that its export does not carry, such as a branch on values"
        )
    return Parity(rows=len(answers_B), largest_difference=gap)


def _compare_with_torch(package_dir: Path) -> None:
    """A GPU server may run the file with torch: it must be able to, and answer the same."""
    import torch

    from heliostat.inference.torch_network import TorchNetwork

    path = package_dir / "model.onnx"
    with_torch = TorchNetwork(path, torch.device("cpu"))
    description = PackageDescription.read(package_dir)
    rng = np.random.default_rng(0)
    rows: dict[str, NDArray[Any]] = {}
    if description.numeric:
        numeric_BN = rng.normal(size=(500, len(description.numeric))).astype(np.float32)
        numeric_BN[rng.random(numeric_BN.shape) < 0.2] = np.nan
        rows["numeric"] = numeric_BN
    if description.categorical:
        sizes = [len(item.vocabulary) + 2 for item in description.categorical]
        rows["categorical"] = rng.integers(0, sizes, (500, len(sizes)))
    expected_B = Predictor.load(package_dir, None, device="cpu").run(
        rows.get("numeric", np.empty((500, 0), np.float32)),
        rows.get("categorical", np.empty((500, 0), np.int64)),
    )
    answers_B = with_torch.run([with_torch.get_outputs()[0].name], rows)[0]
    scale = max(1.0, float(np.abs(expected_B).max()))
    gap = float(np.abs(answers_B.reshape(500, -1)[:, -1] - expected_B).max()) / scale
    if not gap <= PARITY_LIMIT:
        raise HeliostatError(
            f"{path} run with torch differs by {gap:.3g}, at most {PARITY_LIMIT:g} is allowed; it"
            " cannot be served on a GPU"
        )


def _write_json(path: Path, content: Any) -> None:
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
