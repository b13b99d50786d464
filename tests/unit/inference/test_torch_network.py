"""Torch runs an ONNX network as ONNX Runtime does, operator by operator and as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from heliostat.errors import ConfigError
from heliostat.inference.torch_network import TorchNetwork
from heliostat.registry.package import ModelInput
from heliostat.testing import packages

X = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
X[0, 0] = np.nan
CODES = np.array([[0, 3], [1, 0], [2, 2], [3, 1]], np.int64)
CPU = torch.device("cpu")


def ints(*numbers: int) -> np.ndarray[Any, Any]:
    return np.array(numbers, np.int64)


def floats(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(2).normal(size=shape).astype(np.float32)


def node(kind: str, *inputs: str, num_outputs: int = 1, **attributes: Any) -> Any:
    names = ["out", *(f"more{number}" for number in range(1, num_outputs))]
    return helper.make_node(kind, inputs, names, **attributes)


def write(path: Path, nodes: list[Any], constants: dict[str, Any], kind: int = 0) -> Path:
    graph = helper.make_graph(
        nodes,
        "tried",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 6]),
            helper.make_tensor_value_info("codes", TensorProto.INT64, ["B", 2]),
        ],
        [helper.make_tensor_value_info("out", kind or TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def compare(path: Path, feed: dict[str, Any], *, atol: float = 1e-6) -> None:
    """The same numbers, shape and type."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    there = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    here = TorchNetwork(path, CPU)
    wanted = there.run(None, feed)[0]
    found = here.run([port.name for port in here.get_outputs()], feed)[0]
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_allclose(found, wanted, atol=atol, rtol=1e-5)


ONE_INPUT = (
    "Abs", "Erf", "Exp", "Identity", "Neg", "Relu", "Sigmoid", "Softplus", "Tanh", "LeakyRelu",
    "Flatten", "Transpose", "Softmax", "LogSoftmax", "Ceil", "Elu", "Floor", "HardSwish",
    "Reciprocal",
)  # fmt: skip
TWO_INPUTS = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum")
OTHERS = {
    "sqrt and log": [
        helper.make_node("Abs", ["x"], ["abs"]), helper.make_node("Sqrt", ["abs"], ["root"]),
        node("Log", "root"),
    ],
    "power": [node("Pow", "x", "two")],
    "clip": [node("Clip", "x", "low", "high")],
    "clip above": [node("Clip", "x", "", "high")],
    "missing": [helper.make_node("IsNaN", ["x"], ["gone"]), node("Where", "gone", "low", "x")],
    "either": [
        helper.make_node("Greater", ["x", "low"], ["above"]),
        helper.make_node("LessOrEqual", ["x", "high"], ["below"]),
        helper.make_node("Or", ["above", "below"], ["any"]),
        helper.make_node("And", ["above", "below"], ["both"]),
        helper.make_node("Not", ["both"], ["neither"]),
        helper.make_node("And", ["any", "neither"], ["outside"]),
        node("Cast", "outside", to=TensorProto.FLOAT),
    ],
    "equal": [
        helper.make_node("Equal", ["codes", "one"], ["same"]),
        helper.make_node("Cast", ["same"], ["number"], to=TensorProto.FLOAT),
        node("ReduceSum", "number", "axis", keepdims=0),
    ],
    "product": [node("MatMul", "x", "weights")],
    "gemm": [node("Gemm", "x", "turned", "bias", transB=1, alpha=0.5, beta=2.0)],
    "norm": [node("LayerNormalization", "x", "scale", "shift", epsilon=1e-3)],
    "mean": [node("ReduceMean", "x", "axis", keepdims=1)],
    "least": [node("ReduceMin", "x", "axis", keepdims=0)],
    "remainder": [node("Mod", "x", "scale", fmod=1)],
    "most of all": [node("ReduceMax", "x", keepdims=0)],
    "embedding": [node("Gather", "table", "codes")],
    "columns": [node("Gather", "x", "backwards", axis=1)],
    "a row of the shape": [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["rows"]),
        helper.make_node("Unsqueeze", ["rows", "first_axis"], ["rows1"]),
        helper.make_node("Concat", ["rows1", "two_by_three"], ["wanted"], axis=0),
        node("Reshape", "x", "wanted"),
    ],
    "copied size": [node("Reshape", "x", "copy_rest")],
    "zeros as many as rows": [
        helper.make_node("Shape", ["x"], ["shape"], end=1),
        helper.make_node("Concat", ["shape", "three"], ["wanted"], axis=0),
        helper.make_node("ConstantOfShape", ["wanted"], ["zeros"]),
        node("Concat", "x", "zeros", axis=1),
    ],
    "slice": [node("Slice", "x", "one", "four", "axis", "two_steps")],
    "slice backwards": [node("Slice", "x", "minus_one", "minus_nine", "axis", "minus_two")],
    "split": [node("Split", "x", "sizes", num_outputs=2, axis=1)],
    "expand": [
        helper.make_node("Unsqueeze", ["x", "axis"], ["x3"]), node("Expand", "x3", "three_of_it"),
    ],
    "squeeze": [
        helper.make_node("Unsqueeze", ["x", "axis"], ["x3"]), node("Squeeze", "x3", "axis"),
    ],
    "constant": [helper.make_node("Constant", [], ["c"], value_float=2.5), node("Mul", "x", "c")],
    "folded": [helper.make_node("Mul", ["low", "high"], ["low_high"]), node("Add", "x", "low_high")],
}  # fmt: skip
CONSTANTS = {
    "two": np.float32(2.0).reshape(()), "low": np.float32(-0.5).reshape(()),
    "high": np.float32(0.5).reshape(()), "one": ints(1), "weights": floats(6, 3),
    "turned": floats(3, 6), "bias": floats(3), "scale": floats(6), "shift": floats(6),
    "axis": ints(1), "table": floats(4, 5), "backwards": ints(-1, 0, -6), "first": np.int64(0),
    "first_axis": ints(0), "two_by_three": ints(2, 3), "copy_rest": ints(0, 3, -1),
    "three": ints(3), "four": ints(6), "two_steps": ints(2), "minus_one": ints(-1),
    "minus_nine": ints(-9), "minus_two": ints(-2), "sizes": ints(2, 4), "three_of_it": ints(1, 3, 1),
}  # fmt: skip


@pytest.mark.parametrize(
    "nodes",
    [
        *([node(kind, "x")] for kind in ONE_INPUT),
        *([node(kind, "x", "scale")] for kind in TWO_INPUTS),
        *OTHERS.values(),
    ],
    ids=[*ONE_INPUT, *TWO_INPUTS, *OTHERS],
)
def test_an_operator_gives_what_onnx_runtime_gives(tmp_path: Path, nodes: list[Any]) -> None:
    """Shape and type included, with a missing number among them."""
    used = {name for item in nodes for name in item.input}
    constants = {name: np.asarray(value) for name, value in CONSTANTS.items() if name in used}
    path = write(tmp_path / "model.onnx", nodes, constants)

    compare(path, {"x": X, "codes": CODES})


def test_integers_are_divided_towards_zero(tmp_path: Path) -> None:
    """Minus seven halves are minus three."""
    path = write(
        tmp_path / "model.onnx", [node("Div", "codes", "by")], {"by": ints(-2)}, TensorProto.INT64
    )

    compare(path, {"x": X, "codes": CODES - 7})


def test_the_remainder_of_integers_has_the_divisors_sign(tmp_path: Path) -> None:
    """As Python's."""
    path = write(
        tmp_path / "model.onnx", [node("Mod", "codes", "by")], {"by": ints(-2)}, TensorProto.INT64
    )

    compare(path, {"x": X, "codes": CODES - 2})


def test_a_package_scores_the_same_rows_of_any_number(tmp_path: Path) -> None:
    """The formula that packages of tests carry."""
    inputs = [
        ModelInput(name="a", kind="numeric"),
        ModelInput(name="b", kind="numeric"),
        ModelInput(name="c", kind="categorical", vocabulary=("red", "blue")),
    ]
    packages.write_package(tmp_path, model="shapes", inputs=inputs, weights=[1.0, -0.5], work=2)
    for rows in (1, 7):
        feed = {
            "numeric": floats(rows, 2),
            "categorical": np.full((rows, 1), 2, np.int64),
        }
        compare(tmp_path / "model.onnx", feed)


def test_what_torch_cannot_run_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    """By name; and so is a file that is no network."""
    path = write(tmp_path / "model.onnx", [node("Det", "x")], {})
    with pytest.raises(ConfigError, match="'Det': must consist of operators that torch runs here"):
        TorchNetwork(path, CPU)
    path.write_bytes(b"no network")
    with pytest.raises(ConfigError, match="must be a readable ONNX network"):
        TorchNetwork(path, CPU)


def test_nothing_of_another_domain_is_run(tmp_path: Path) -> None:
    """An operator of the same name may mean something else there."""
    other = onnx.helper.make_node("Add", ["x", "x"], ["out"], domain="com.example")
    path = write(tmp_path / "model.onnx", [other], {})
    with pytest.raises(ConfigError, match="Add"):
        TorchNetwork(path, CPU)
