"""The Open Inference Protocol, version 2, over REST: decode requests, encode answers.

A tensor holds one column: shape ``[B]`` or ``[B, 1]``. ``null`` is a missing value, which the
protocol does not know and which every stock client can leave out by never sending it.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from heliostat.errors import nearest
from heliostat.registry.package import PackageDescription
from heliostat.serving.refused import Refused, bad

MAX_ROWS = 10_000

_FLOATS = frozenset({"FP32", "FP64"})
_INTEGERS = {
    name: (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    for name, bits in (("INT8", 8), ("INT16", 16), ("INT32", 32), ("INT64", 64))
} | {
    name: (0, 2**bits - 1)
    for name, bits in (("UINT8", 8), ("UINT16", 16), ("UINT32", 32), ("UINT64", 64))
}
_DATATYPES = frozenset({"BYTES", "BOOL", *_FLOATS, *_INTEGERS})
_FLOAT_VALUES: frozenset[type] = frozenset({float, int, type(None)})
_INTEGER_VALUES: frozenset[type] = frozenset({int, type(None)})
_TEXT_VALUES: frozenset[type] = frozenset({str, type(None)})
_BOOL_VALUES: frozenset[type] = frozenset({bool, type(None)})
_ONE_ROW = [1]
_SIMPLE: dict[str, frozenset[type]] = {
    "FP32": _FLOAT_VALUES,
    "FP64": _FLOAT_VALUES,
    "BYTES": _TEXT_VALUES,
    "BOOL": _BOOL_VALUES,
}
"""Kinds of values that need no look at the value itself."""

_FLOAT32_MAX = 3.4028234663852886e38


class TensorParameters(msgspec.Struct, frozen=True):
    """Parameters of an input that mean something to us."""

    binary_data_size: int | None = None


class Tensor(msgspec.Struct, frozen=True):
    """One input as it came; `data` is None where its values are binary."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: TensorParameters = TensorParameters()


class OutputParameters(msgspec.Struct, frozen=True):
    """Parameters of a wanted output that mean something to us."""

    binary_data: bool = False


class WantedOutput(msgspec.Struct, frozen=True):
    """An output that the client asks for by name."""

    name: str
    parameters: OutputParameters = OutputParameters()


class RequestParameters(msgspec.Struct, frozen=True):
    """Parameters of a request that mean something to us."""

    binary_data_output: bool = False


class InferRequest(msgspec.Struct, frozen=True):
    """A request body; fields that are not listed here are ignored, as the protocol asks."""

    inputs: list[Tensor]
    id: str | None = None
    outputs: list[WantedOutput] | None = None
    parameters: RequestParameters = RequestParameters()

    @property
    def wants_binary(self) -> bool:
        """Whether the output's values shall come as raw bytes."""
        if self.outputs:
            return any(output.parameters.binary_data for output in self.outputs)
        return self.parameters.binary_data_output


_decode = msgspec.json.Decoder(InferRequest).decode
encode = msgspec.json.Encoder().encode

D = TypeVar("D")


def decode(body: bytes) -> InferRequest:
    """Read a request body.

    Raises:
        Refused: 400; as for `strict`.
    """
    return strict(_decode, body)


def strict(decode: Callable[[bytes], D], body: bytes) -> D:
    """Read JSON that comes from outside.

    Raises:
        Refused: 400; the body is no JSON, has a wrong form, or holds NaN or Infinity (which
            JSON does not know, though some clients write them).
    """
    try:
        return decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        name = _name_with_non_finite(body)
        if name is not None:
            raise Refused(400, f"{name}: NaN and Infinity are not allowed") from error
        is_json = isinstance(error, msgspec.ValidationError)
        raise Refused(
            400, f"body: {error}" if is_json else f"body: must be JSON; {error}"
        ) from error


def columns(request: InferRequest) -> tuple[dict[str, list[Any]], int]:
    """Check every tensor by itself; return values by name and the number of rows.

    Raises:
        Refused: 400; a shape, datatype or value is wrong, or the tensors differ in rows.
    """
    if not request.inputs:
        raise bad("inputs", [], "must hold at least one tensor")
    values: dict[str, list[Any]] = {}
    num_rows = 0
    for tensor in request.inputs:
        name = tensor.name
        if name in values:
            raise bad("inputs", name, "must be given once")
        shape, single = tensor.shape, tensor.data
        if (
            shape == _ONE_ROW
            and num_rows <= 1
            and single is not None
            and len(single) == 1
            and type(single[0]) in _SIMPLE.get(tensor.datatype, ())
        ):
            # Nearly every request is one row; what is left to check of it is nothing.
            values[name] = single
            num_rows = 1
            continue
        rows = shape[0] if shape else 0
        if not (len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)) or rows < 1:
            raise bad(f"tensor {name}: shape", shape, "must be [B] or [B, 1] with B at least 1")
        if rows > MAX_ROWS:
            raise Refused(413, f"tensor {name}: shape = {shape}: at most {MAX_ROWS} rows")
        data = _flat(tensor)
        if len(data) != rows:
            raise bad(f"tensor {name}: data", f"{len(data)} values", f"shape {shape} needs {rows}")
        if num_rows and rows != num_rows:
            raise bad(f"tensor {name}: shape", shape, f"must have {num_rows} rows like the others")
        num_rows = rows
        _check_values(tensor, data)
        values[name] = data
    return values, num_rows


def check_outputs(request: InferRequest, output: str) -> None:
    """Refuse with 400 if the client wants an output that the model does not have."""
    for wanted in request.outputs or ():
        if wanted.name != output:
            raise bad("outputs", wanted.name, f"is not an output; known: {output}")


def check_numbers(name: str, values: Sequence[Any]) -> None:
    """Refuse with 400 what a numeric input cannot hold: text, and numbers beyond float32."""
    for value in values:
        if isinstance(value, str):
            raise bad(f"tensor {name}", value, "must be a number; the input is numeric")
        if value is not None and not -_FLOAT32_MAX <= value <= _FLOAT32_MAX:
            raise bad(f"tensor {name}", value, "must fit into a 32-bit float")


def answer(
    *, model: str, version: str, request_id: str, output: str, scores: Sequence[float]
) -> bytes:
    """Encode the answer to an inference request."""
    tensor = {"name": output, "shape": [len(scores)], "datatype": "FP32", "data": scores}
    return _answer(model, version, request_id, tensor)


def binary_answer(
    *, model: str, version: str, request_id: str, output: str, scores: Sequence[float]
) -> tuple[bytes, int]:
    """Encode the answer with raw values; return it with the length of its JSON part."""
    size = 4 * len(scores)
    tensor = {
        "name": output,
        "shape": [len(scores)],
        "datatype": "FP32",
        "parameters": {"binary_data_size": size},
    }
    head = _answer(model, version, request_id, tensor)
    return head + struct.pack(f"<{len(scores)}f", *scores), len(head)


def _answer(model: str, version: str, request_id: str, tensor: dict[str, Any]) -> bytes:
    return encode(
        {"model_name": model, "model_version": version, "id": request_id, "outputs": [tensor]}
    )


def model_metadata(
    description: PackageDescription,
    versions: Sequence[str],
    keys: Sequence[str],
    feature_reader: str | None = None,
) -> bytes:
    """Encode what a client may send to the model and what it gets.

    Args:
        keys: Tensors that may be sent instead of all inputs; empty if none.
        feature_reader: Whose reader fetches its features, if it has any.
    """
    parameters: dict[str, Any] = {"entity_keys": list(keys)}
    if feature_reader is not None:
        parameters["feature_reader"] = feature_reader
    inputs = [
        {
            "name": item.name,
            "datatype": "FP64" if item.kind == "numeric" else "BYTES",
            "shape": [-1],
        }
        for item in description.inputs
    ]
    return encode(
        {
            "name": description.model,
            "versions": list(versions),
            "platform": "onnxruntime_onnx",
            "inputs": inputs,
            "outputs": [{"name": description.output, "datatype": "FP32", "shape": [-1]}],
            "parameters": parameters,
        }
    )


def error(message: str) -> bytes:
    """Encode what a client is told instead of an answer."""
    return encode({"error": message})


def unknown_model(name: str, known: Sequence[str]) -> Refused:
    """Build the 404 for a model that no policy names."""
    return Refused(404, f"model {name[:80]!r} is not served; {nearest(name, known)}")


def _flat(tensor: Tensor) -> list[Any]:
    data = tensor.data
    if data is None:
        raise Refused(400, f"tensor {tensor.name}: must have data")
    if len(tensor.shape) == 2 and data and isinstance(data[0], list):
        if any(not isinstance(row, list) or len(row) != 1 for row in data):
            raise bad(f"tensor {tensor.name}: data", data, "rows must have one value each")
        return [row[0] for row in data]
    return data


def _check_values(tensor: Tensor, data: list[Any]) -> None:
    datatype = tensor.datatype
    where = f"tensor {tensor.name}"
    kinds = set(map(type, data))
    if datatype in _FLOATS:
        if not kinds <= _FLOAT_VALUES:
            raise bad(where, _first_other(data, _FLOAT_VALUES), f"must be a number for {datatype}")
    elif datatype == "BYTES":
        if not kinds <= _TEXT_VALUES:
            raise bad(where, _first_other(data, _TEXT_VALUES), "must be text for BYTES")
    elif datatype in _INTEGERS:
        if not kinds <= _INTEGER_VALUES:
            raise bad(
                where, _first_other(data, _INTEGER_VALUES), f"must be an integer for {datatype}"
            )
        low, high = _INTEGERS[datatype]
        for value in data:
            if value is not None and not low <= value <= high:
                raise bad(where, value, f"must fit into {datatype}")
    elif datatype == "BOOL":
        if not kinds <= _BOOL_VALUES:
            raise bad(where, _first_other(data, _BOOL_VALUES), "must be true or false for BOOL")
    else:
        raise bad(f"{where}: datatype", datatype, nearest(datatype, _DATATYPES))


def _first_other(data: list[Any], kinds: frozenset[type]) -> Any:
    return next(value for value in data if type(value) not in kinds)


def _name_with_non_finite(body: bytes) -> str | None:
    """Name the tensor with NaN or Infinity in a body that strict JSON refuses."""
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(raw, dict):
        return None
    tensors = raw.get("inputs")
    for tensor in tensors if isinstance(tensors, list) else ():
        if isinstance(tensor, dict) and _has_non_finite(tensor.get("data")):
            return f"tensor {str(tensor.get('name'))[:120]}"
    return "body" if _has_non_finite(raw) else None


def _has_non_finite(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list) and any(_has_non_finite(item) for item in value)
