"""Give an ONNX network of one table the tensors of a package: numbers, codes, one answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from heliostat.registry.package import ModelInput

TABLE = "X"
"""Name of the one input, float32 (B, N + C), of a network that is to be changed."""

LARGEST = 1e30
"""Numbers are cut here before they are computed with, so that none of them becomes infinite."""


def of_table(model: Any, inputs: Sequence[ModelInput], *, answer: int, output: str) -> bytes:
    """Put ``numeric`` (B, N) and ``categorical`` (B, C) before a network; keep one output.

    Args:
        model: An ONNX ModelProto with the one input `TABLE`; it is changed.
        inputs: Inputs of the package, numeric ones first.
        answer: Which output stays, -1 for the last one.
        output: Name that it gets.
    """
    from onnx import TensorProto, checker, helper

    graph = model.graph
    num_numeric = sum(item.kind == "numeric" for item in inputs)
    num_categorical = len(inputs) - num_numeric
    nodes, parts, tensors = [], [], []
    if num_numeric:
        tensors.append(
            helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["rows", num_numeric])
        )
        bounds = [("table_low", -LARGEST), ("table_high", LARGEST)]
        graph.initializer.extend(
            helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in bounds
        )
        nodes += [
            # Clip itself may turn NaN, which means missing, into a bound.
            helper.make_node("IsNaN", ["numeric"], ["table_missing"]),
            helper.make_node("Clip", ["numeric", "table_low", "table_high"], ["table_cut"]),
            helper.make_node("Where", ["table_missing", "numeric", "table_cut"], ["table_numbers"]),
        ]
        parts.append("table_numbers")
    if num_categorical:
        tensors.append(
            helper.make_tensor_value_info(
                "categorical", TensorProto.INT64, ["rows", num_categorical]
            )
        )
        nodes.append(
            helper.make_node("Cast", ["categorical"], ["table_codes"], to=TensorProto.FLOAT)
        )
        parts.append("table_codes")
    nodes.append(helper.make_node("Concat", parts, [TABLE], axis=1))
    rest = list(graph.node)
    kept = graph.output[answer].name
    last = helper.make_node("Identity", [kept], [output])
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend([*nodes, *rest, last])
    graph.input.extend(tensors)
    graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, ["rows", None]))
    checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content
