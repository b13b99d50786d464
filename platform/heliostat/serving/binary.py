"""The protocol's binary tensors: raw values behind the JSON part of a body.

A body is JSON of ``Inference-Header-Content-Length`` bytes, then the values of each input
that has ``binary_data_size``, in order, little-endian; each text of BYTES is preceded by its
length in four bytes.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from heliostat.serving import protocol
from heliostat.serving.protocol import InferRequest, Tensor
from heliostat.serving.refused import Refused, bad

_TYPES = {
    "BOOL": np.dtype("?"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    **{
        f"{prefix}INT{bits}": np.dtype(f"<{kind}{bits // 8}")
        for prefix, kind in (("", "i"), ("U", "u"))
        for bits in (8, 16, 32, 64)
    },
}


def decode(body: bytes, header_length: bytes | None) -> InferRequest:
    """Read a request body with or without binary tensors.

    Args:
        header_length: The header ``Inference-Header-Content-Length``, if there is one.

    Raises:
        Refused: 400; as for `protocol.decode`, or the binary part does not fit what the
            JSON part says, or it holds NaN or Infinity.
    """
    if header_length is None:
        return protocol.decode(body)
    if not header_length.isdigit() or len(header_length) > 12 or int(header_length) > len(body):
        raise Refused(
            400, "header inference-header-content-length: must be a length within the body"
        )
    start = int(header_length)
    request = protocol.decode(body[:start])
    inputs = []
    for tensor in request.inputs:
        size = tensor.parameters.binary_data_size
        if size is None:
            inputs.append(tensor)
            continue
        if not 0 <= size <= len(body) - start:
            raise bad(f"tensor {tensor.name}: binary_data_size", size, "must lie within the body")
        values = _values(tensor, body[start : start + size])
        inputs.append(msgspec.structs.replace(tensor, data=values))
        start += size
    if start != len(body):
        raise Refused(400, f"body: {len(body) - start} bytes more than the tensors hold")
    return msgspec.structs.replace(request, inputs=inputs)


def _values(tensor: Tensor, raw: bytes) -> list[Any]:
    if tensor.datatype == "BYTES":
        return _texts(tensor.name, raw)
    dtype = _TYPES.get(tensor.datatype)
    if dtype is None:
        raise bad(f"tensor {tensor.name}: datatype", tensor.datatype, "cannot be sent as binary")
    if len(raw) % dtype.itemsize:
        raise bad(
            f"tensor {tensor.name}: binary_data_size",
            len(raw),
            f"must be a multiple of {dtype.itemsize}",
        )
    array = np.frombuffer(raw, dtype)
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise Refused(400, f"tensor {tensor.name}: NaN and Infinity are not allowed")
    values: list[Any] = array.tolist()
    return values


def _texts(name: str, raw: bytes) -> list[Any]:
    texts: list[Any] = []
    position = 0
    while position < len(raw):
        begin = position + 4
        end = begin + int.from_bytes(raw[position:begin], "little")
        if end > len(raw) or begin > len(raw):
            raise Refused(400, f"tensor {name}: a text is longer than the tensor's bytes")
        try:
            texts.append(raw[begin:end].decode("utf-8"))
        except UnicodeDecodeError as error:
            raise Refused(400, f"tensor {name}: texts must be UTF-8") from error
        position = end
    return texts
