"""ONNX operators in torch, as opset 13 and later define them. Imports torch and onnx."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor, nn

Operator = Callable[[Mapping[str, Any], Sequence[Any]], "Tensor | Sequence[Tensor]"]
"""Called with the node's attributes and its inputs; None where one was left out."""

HOST_INPUTS: Mapping[str, frozenset[int]] = {
    "ConstantOfShape": frozenset({0}),
    "Expand": frozenset({1}),
    "ReduceMax": frozenset({1}),
    "ReduceMean": frozenset({1}),
    "ReduceMin": frozenset({1}),
    "ReduceSum": frozenset({1}),
    "Reshape": frozenset({1}),
    "Slice": frozenset({1, 2, 3, 4}),
    "Split": frozenset({1}),
    "Squeeze": frozenset({1}),
    "Unsqueeze": frozenset({1}),
}
"""Inputs that are read as numbers on the host: fetching them from a GPU would wait for it."""

_TYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}


def _each(function: Callable[..., Tensor]) -> Operator:
    """An operator without attributes."""
    return lambda _, inputs: function(*inputs)


def _all(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """An operator that joins any number of inputs."""
    return lambda _, inputs: reduce(function, inputs)


def _numbers(value: Any) -> list[int]:
    return [int(number) for number in value.tolist()]


def _div(one: Tensor, other: Tensor) -> Tensor:
    if one.is_floating_point() or other.is_floating_point():
        return one / other
    return torch.div(one, other, rounding_mode="trunc")


def _mod(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Tensor:
    if attributes.get("fmod", 0):
        return torch.fmod(inputs[0], inputs[1])
    return torch.remainder(inputs[0], inputs[1])


def _gather(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Tensor:
    data: Tensor = inputs[0]
    index: Tensor = inputs[1]
    axis = attributes.get("axis", 0) % data.ndim
    size = data.shape[axis]
    flat = torch.where(index < 0, index + size, index).reshape(-1)
    shape = (*data.shape[:axis], *index.shape, *data.shape[axis + 1 :])
    return data.index_select(axis, flat).reshape(shape)


def _reshape(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Tensor:
    data: Tensor = inputs[0]
    shape = _numbers(inputs[1])
    if not attributes.get("allowzero", 0):
        shape = [size or data.shape[place] for place, size in enumerate(shape)]
    return data.reshape(shape)


def _flatten(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Tensor:
    data: Tensor = inputs[0]
    axis = attributes.get("axis", 1)
    axis = axis + data.ndim if axis < 0 else axis
    rows = reduce(operator.mul, data.shape[:axis], 1)
    columns = reduce(operator.mul, data.shape[axis:], 1)
    return data.reshape(rows, columns)


def _squeeze(_: Mapping[str, Any], inputs: Sequence[Any]) -> Tensor:
    data: Tensor = inputs[0]
    if len(inputs) < 2 or inputs[1] is None:
        return data.squeeze()
    return data.squeeze(tuple(_numbers(inputs[1])))


def _unsqueeze(_: Mapping[str, Any], inputs: Sequence[Any]) -> Tensor:
    data: Tensor = inputs[0]
    axes = _numbers(inputs[1])
    ndim = data.ndim + len(axes)
    for axis in sorted(axis % ndim for axis in axes):
        data = data.unsqueeze(axis)
    return data


def _slice(_: Mapping[str, Any], inputs: Sequence[Any]) -> Tensor:
    data, starts, ends = inputs[0], _numbers(inputs[1]), _numbers(inputs[2])
    axes = _numbers(inputs[3]) if len(inputs) > 3 and inputs[3] is not None else range(len(starts))
    steps = _numbers(inputs[4]) if len(inputs) > 4 and inputs[4] is not None else [1] * len(starts)
    cuts = [slice(None)] * data.ndim
    backwards = []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step > 0:
            cuts[axis] = slice(start, end, step)
            continue
        # Torch has no steps backwards: cut the same places forwards, then turn them round.
        places = range(*slice(start, end, step).indices(data.shape[axis]))
        if places:
            cuts[axis] = slice(places[-1], places[0] + 1, -step)
        else:
            cuts[axis] = slice(0, 0)
        backwards.append(axis)
    part: Tensor = data[tuple(cuts)]
    return part.flip(backwards) if backwards else part


def _split(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Sequence[Tensor]:
    data, axis = inputs[0], attributes.get("axis", 0)
    if len(inputs) > 1 and inputs[1] is not None:
        return torch.split(data, _numbers(inputs[1]), dim=axis)
    size = -(-data.shape[axis] // attributes["num_outputs"])
    return torch.split(data, size, dim=axis)


def _gemm(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Tensor:
    one, other = inputs[0], inputs[1]
    one = one.T if attributes.get("transA", 0) else one
    other = other.T if attributes.get("transB", 0) else other
    product: Tensor = attributes.get("alpha", 1.0) * (one @ other)
    if len(inputs) > 2 and inputs[2] is not None:
        product = product + attributes.get("beta", 1.0) * inputs[2]
    return product


def _layer_norm(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Tensor:
    data, scale = inputs[0], inputs[1]
    bias = inputs[2] if len(inputs) > 2 else None
    shape = data.shape[attributes.get("axis", -1) :]
    return nn.functional.layer_norm(data, shape, scale, bias, attributes.get("epsilon", 1e-5))


def _reduced(function: Callable[..., Tensor]) -> Operator:
    def run(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Tensor:
        data: Tensor = inputs[0]
        axes = attributes.get("axes")
        if len(inputs) > 1 and inputs[1] is not None:
            axes = _numbers(inputs[1])
        if not axes and attributes.get("noop_with_empty_axes", 0):
            return data
        chosen = tuple(axes or range(data.ndim))
        return function(data, dim=chosen, keepdim=bool(attributes.get("keepdims", 1)))

    return run


def _shape(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Tensor:
    shape = list(inputs[0].shape)
    return torch.tensor(shape[attributes.get("start", 0) : attributes.get("end")])


def _filled(attributes: Mapping[str, Any], inputs: Sequence[Any]) -> Tensor:
    value = attributes.get("value", torch.zeros(1))
    return torch.full(_numbers(inputs[0]), value.reshape(-1)[0].item(), dtype=value.dtype)


def _expand(_: Mapping[str, Any], inputs: Sequence[Any]) -> Tensor:
    data: Tensor = inputs[0]
    shape = inputs[1]
    return data.expand(torch.broadcast_shapes(data.shape, tuple(_numbers(shape))))


def _clip(_: Mapping[str, Any], inputs: Sequence[Any]) -> Tensor:
    low, high = (*inputs[1:], None, None)[:2]
    data: Tensor = inputs[0]
    if low is not None:
        data = torch.maximum(data, low)
    return data if high is None else torch.minimum(data, high)


OPERATORS: Mapping[str, Operator] = {
    "Abs": _each(torch.abs),
    "Add": _each(operator.add),
    "And": _each(torch.logical_and),
    "Cast": lambda attributes, inputs: inputs[0].to(_TYPES[attributes["to"]]),
    "Ceil": _each(torch.ceil),
    "Clip": _clip,
    "Concat": lambda attributes, inputs: torch.cat(list(inputs), dim=attributes["axis"]),
    "Constant": lambda attributes, _: torch.as_tensor(next(iter(attributes.values()))),
    "ConstantOfShape": _filled,
    "Div": _each(_div),
    "Dropout": lambda _, inputs: inputs[0],
    "Elu": lambda attributes, inputs: nn.functional.elu(inputs[0], attributes.get("alpha", 1.0)),
    "Equal": _each(torch.eq),
    "Erf": _each(torch.erf),
    "Exp": _each(torch.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _each(torch.floor),
    "Gather": _gather,
    "Gelu": lambda attributes, inputs: nn.functional.gelu(
        inputs[0], approximate=attributes.get("approximate", "none")
    ),
    "Gemm": _gemm,
    "Greater": _each(torch.gt),
    "GreaterOrEqual": _each(torch.ge),
    "HardSwish": _each(nn.functional.hardswish),
    "Identity": lambda _, inputs: inputs[0],
    "IsNaN": _each(torch.isnan),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda attributes, inputs: nn.functional.leaky_relu(
        inputs[0], attributes.get("alpha", 0.01)
    ),
    "Less": _each(torch.lt),
    "LessOrEqual": _each(torch.le),
    "Log": _each(torch.log),
    "LogSoftmax": lambda attributes, inputs: inputs[0].log_softmax(attributes.get("axis", -1)),
    "MatMul": _each(torch.matmul),
    "Max": _all(torch.maximum),
    "Min": _all(torch.minimum),
    "Mod": _mod,
    "Mul": _each(operator.mul),
    "Neg": _each(torch.neg),
    "Not": _each(torch.logical_not),
    "Or": _each(torch.logical_or),
    "Pow": _each(lambda base, exponent: torch.pow(base, exponent).to(base.dtype)),
    "Reciprocal": _each(torch.reciprocal),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceMin": _reduced(torch.amin),
    "ReduceSum": _reduced(torch.sum),
    "Relu": _each(torch.relu),
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": _each(torch.sigmoid),
    "Slice": _slice,
    "Softmax": lambda attributes, inputs: inputs[0].softmax(attributes.get("axis", -1)),
    "Softplus": _each(nn.functional.softplus),
    "Split": _split,
    "Sqrt": _each(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _each(operator.sub),
    "Sum": _all(operator.add),
    "Tanh": _each(torch.tanh),
    "Transpose": lambda attributes, inputs: inputs[0].permute(
        attributes.get("perm", tuple(reversed(range(inputs[0].ndim))))
    ),
    "Unsqueeze": _unsqueeze,
    "Where": _each(torch.where),
}
