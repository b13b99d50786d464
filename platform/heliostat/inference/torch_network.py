"""Run a package's ONNX network with torch: on a GPU without ONNX Runtime's CUDA build.

Torch cannot read ONNX files. This runs the operators that exports of torch's own layers consist
of, one after the other; a file with any other is refused when it is loaded. Imports torch and onnx.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor

from heliostat.errors import ConfigError
from heliostat.inference.torch_operators import HOST_INPUTS, OPERATORS

_CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the network, in ONNX Runtime's words."""

    name: str
    shape: list[int | str]


@dataclass(frozen=True, slots=True)
class _Step:
    """One operator."""

    kind: str
    attributes: Mapping[str, Any]
    arguments: tuple[tuple[str, bool], ...]
    """Name of each, and whether it must be on the CPU; an empty name was left out."""
    results: tuple[str, ...]
    done_with: tuple[str, ...]
    """Values that no later step reads."""
    on_host: bool


class TorchNetwork:
    """A network on a device; has the methods of ONNX Runtime's session that a predictor calls."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """Read `path`, a verified file, and put its constants on `device`.

        Raises:
            ConfigError: The file cannot be read, or has an operator that is not known here.
        """
        try:
            model = onnx.load(str(path))
        except Exception as error:
            # Protobuf's and onnx's own exceptions share no base class but Exception.
            raise ConfigError(str(path), str(error), "must be a readable ONNX network") from error
        self._device = device
        self._constants: dict[tuple[str, bool], Tensor] = {}
        constants = {
            item.name: torch.from_numpy(numpy_helper.to_array(item).copy())
            for item in model.graph.initializer
        }
        self._inputs = [_port(item) for item in model.graph.input if item.name not in constants]
        self._outputs = [_port(item) for item in model.graph.output]
        self._steps = _plan(path, model.graph, constants, [port.name for port in self._outputs])
        for step in self._steps:
            for name, on_host in step.arguments:
                if name in constants:
                    self._place(name, constants[name], on_host=on_host or step.on_host)
        for port in self._outputs:
            if port.name in constants:
                self._place(port.name, constants[port.name], on_host=False)

    def get_inputs(self) -> list[Port]:
        """Inputs, as the file names them."""
        return self._inputs

    def get_outputs(self) -> list[Port]:
        """Outputs, as the file names them."""
        return self._outputs

    @torch.inference_mode()
    def run(self, outputs: Sequence[str], feed: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Compute named outputs. Safe to call from several threads."""
        values = {
            # A copy of what cannot be written: torch would warn, though nothing here writes.
            name: torch.from_numpy(array if array.flags.writeable else array.copy()).to(
                self._device
            )
            for name, array in feed.items()
        }
        for step in self._steps:
            device = _CPU if step.on_host else self._device
            arguments = [
                self._argument(values, name, _CPU if on_host else device)
                for name, on_host in step.arguments
            ]
            made = OPERATORS[step.kind](step.attributes, arguments)
            if isinstance(made, Tensor):
                values[step.results[0]] = made
            else:
                values.update(zip(step.results, made, strict=True))
            for name in step.done_with:
                values.pop(name, None)
        return [
            self._argument(values, name, self._device).cpu().numpy()  # type: ignore[union-attr]
            for name in outputs
        ]

    def _argument(
        self, values: Mapping[str, Tensor], name: str, device: torch.device
    ) -> Tensor | None:
        if not name:
            return None
        value = values.get(name)
        if value is None:
            return self._constants[name, device.type == "cpu"]
        return value if value.device.type == device.type else value.to(device)

    def _place(self, name: str, value: Tensor, *, on_host: bool) -> None:
        device = _CPU if on_host else self._device
        self._constants[name, device.type == "cpu"] = value.to(device)


def _plan(
    path: Path, graph: Any, constants: dict[str, Tensor], outputs: Sequence[str]
) -> list[_Step]:
    """Order the operators' calls; what needs no input is computed now and joins `constants`."""
    unknown = sorted({node.op_type for node in graph.node if not _is_known(node)})
    if unknown:
        raise ConfigError(
            str(path), ", ".join(unknown), "must consist of operators that torch runs here",
            breaks="the network cannot be served with torch; install onnxruntime-gpu",
        )  # fmt: skip
    last_read = {name: at for at, node in enumerate(graph.node) for name in node.input}
    host: set[str] = set()
    steps = []
    for at, node in enumerate(graph.node):
        attributes = {item.name: _attribute(item) for item in node.attribute}
        given = [name for name in node.input if name and name not in constants]
        if not given:
            made = OPERATORS[node.op_type](
                attributes, [constants[name] if name else None for name in node.input]
            )
            found = [made] if isinstance(made, Tensor) else made
            constants.update(zip(node.output, found, strict=True))
            continue
        on_host = node.op_type != "Shape" and all(name in host for name in given)
        if on_host or node.op_type == "Shape":
            host.update(node.output)
        wanted = HOST_INPUTS.get(node.op_type, frozenset())
        steps.append(
            _Step(
                node.op_type,
                attributes,
                tuple((name, number in wanted) for number, name in enumerate(node.input)),
                tuple(node.output),
                tuple(
                    name
                    for name in {*given, *node.output}
                    if last_read.get(name, -1) <= at and name not in outputs
                ),
                on_host,
            )
        )
    return steps


def _is_known(node: Any) -> bool:
    return node.domain in ("", "ai.onnx") and node.op_type in OPERATORS


def _attribute(item: Any) -> Any:
    value = helper.get_attribute_value(item)
    if isinstance(value, onnx.TensorProto):
        return torch.from_numpy(np.array(numpy_helper.to_array(value)))
    return value.decode() if isinstance(value, bytes) else value


def _port(item: Any) -> Port:
    return Port(
        item.name,
        [size.dim_param or size.dim_value for size in item.type.tensor_type.shape.dim],
    )
