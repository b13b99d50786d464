"""Makes tiny model packages that are complete and right, without any training."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from heliostat.registry.package import (
    FeatureServiceReference,
    ModelInput,
    PackageDescription,
    ServingOptions,
)


def write_package(
    directory: Path,
    *,
    model: str,
    inputs: Sequence[ModelInput],
    features: FeatureServiceReference | None = None,
    weights: Sequence[float] | None = None,
    bias: float = 0.0,
    keys_dir: Path | None = None,
    fails_above: float | None = None,
    work: int = 0,
    serving: ServingOptions | None = None,
    pickled: Any = None,
) -> PackageDescription:
    """Write a logistic model whose score can be computed by hand.

    The score of a row is ``sigmoid(bias + sum of weight * numeric + 0.01 * sum of codes)``
    where a missing number counts as 0.

    Args:
        directory: Made if it does not exist.
        weights: One per numeric input; default 1.0 each.
        keys_dir: Signs the package with the key there, made if needed; None leaves it unsigned.
        fails_above: Where given, a row whose first number is above it scores NaN, which a
            server must treat as an error of this version.
        work: So many products of large matrices whose result is not used: time, not sense.
        serving: How a server should run it.
        pickled: A fitted regressor that answers instead, kept as a pickle; the formula is not.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    description = PackageDescription(
        model=model,
        inputs=tuple(inputs),
        output="score",
        features=features,
        serving=serving or ServingOptions(),
        network="onnx" if pickled is None else "pickle",
    )
    if pickled is not None:
        content = pickle.dumps({"estimator": pickled, "task": "regression"})
        return _finished(description, directory, content, keys_dir)
    num_numeric, num_codes = len(description.numeric), len(description.categorical)
    if weights is None:
        weights = [1.0] * num_numeric
    graph_inputs, nodes, constants = [], [], {"bias": np.array([bias], np.float32)}
    terms = ["bias"]
    if num_numeric:
        graph_inputs.append(
            helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["B", num_numeric])
        )
        constants["weights"] = np.asarray(weights, np.float32).reshape(num_numeric, 1)
        constants["zero"] = np.zeros((1, 1), np.float32)
        nodes += [
            helper.make_node("IsNaN", ["numeric"], ["is_missing"]),
            helper.make_node("Where", ["is_missing", "zero", "numeric"], ["filled"]),
            helper.make_node("MatMul", ["filled", "weights"], ["numeric_term"]),
        ]
        terms.append("numeric_term")
    if num_codes:
        graph_inputs.append(
            helper.make_tensor_value_info("categorical", TensorProto.INT64, ["B", num_codes])
        )
        constants["code_weights"] = np.full((num_codes, 1), 0.01, np.float32)
        nodes += [
            helper.make_node("Cast", ["categorical"], ["codes"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["codes", "code_weights"], ["code_term"]),
        ]
        terms.append("code_term")
    if fails_above is not None:
        constants["limit"] = np.array([[fails_above]], np.float32)
        constants["first"] = np.array([0], np.int64)
        constants["nan"] = np.array([[np.nan]], np.float32)
        constants["nothing"] = np.zeros((1, 1), np.float32)
        nodes += [
            helper.make_node("Gather", ["filled", "first"], ["first_number"], axis=1),
            helper.make_node("Greater", ["first_number", "limit"], ["is_above"]),
            helper.make_node("Where", ["is_above", "nan", "nothing"], ["failure"]),
        ]
        terms.append("failure")
    if work:
        constants["heavy"] = np.full((512, 512), 1 / 512, np.float32)
        constants["none"] = np.zeros((1, 1), np.float32)
        nodes.append(helper.make_node("MatMul", ["filled", "ones"], ["work_0"]))
        constants["ones"] = np.ones((num_numeric, 512), np.float32)
        # The matrix depends on the row, so that no optimiser can compute it beforehand.
        nodes.append(helper.make_node("Add", ["heavy", "work_row"], ["work_begin"]))
        nodes.insert(-1, helper.make_node("ReduceSum", ["work_0"], ["work_row"], keepdims=0))
        before = "work_begin"
        for number in range(work):
            nodes.append(helper.make_node("MatMul", [before, "heavy"], [f"work_{number + 1}"]))
            before = f"work_{number + 1}"
        nodes += [
            helper.make_node("ReduceMax", [before], ["work_most"], keepdims=0),
            helper.make_node("Mul", ["work_most", "none"], ["work_done"]),
        ]
        terms.append("work_done")
    constants["last_axis"] = np.array([1], np.int64)
    nodes += [
        helper.make_node("Sum", terms, ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["chance"]),
        helper.make_node("Squeeze", ["chance", "last_axis"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        model.replace("-", "_"),
        graph_inputs,
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["B"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(network)
    return _finished(description, directory, network.SerializeToString(), keys_dir)


def _finished(
    description: PackageDescription, directory: Path, content: bytes, keys_dir: Path | None
) -> PackageDescription:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / description.file).write_bytes(content)
    description.write(directory)
    if keys_dir is not None:
        from heliostat.registry import signing

        signing.create_key(keys_dir)
        signing.sign(directory, keys_dir)
    return description
