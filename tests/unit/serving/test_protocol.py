"""What the gateway refuses, how it says so, and what it takes."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
import zlib
from typing import Any

import pytest

from heliostat.serving import protocol
from heliostat.serving.refused import Refused
from tests.unit.serving.conftest import Bench, Reply, ask, by_inputs, by_key

INFER = "/v2/models/shapes/infer"
NO_PATH = "no such path; models are served under /v2/models, see /v2/openapi.json"


def tensor(name: str, data: Any, datatype: str = "FP64", shape: Any = None) -> dict[str, Any]:
    return {
        "name": name,
        "shape": [len(data)] if shape is None else shape,
        "datatype": datatype,
        "data": data,
    }


def send(bench: Bench, *bodies: Any, path: str = INFER, **options: Any) -> list[Reply]:
    """Deploy version 1 and send requests to it."""

    async def story() -> list[Reply]:
        await bench.gateway.policies.activate(bench.policy(1, bench.stable("1")))
        return [await ask(bench.gateway, path, body, **options) for body in bodies]

    return asyncio.run(story())


COLOUR = tensor("colour", ["red"], "BYTES")

REFUSED = [
    (b"", "body: must be JSON; Input data was truncated"),
    (b'{"inputs', "body: must be JSON; Input data was truncated"),
    (b"[]", "body: Expected `object`, got `array`"),
    ({}, "body: Object missing required field `inputs`"),
    ({"inputs": []}, "inputs = []: must hold at least one tensor"),
    (
        {"inputs": [tensor("size", [1], shape=["1"]), COLOUR]},
        "body: Expected `int`, got `str` - at `$.inputs[0].shape[0]`",
    ),
    (
        b'{"inputs":[{"name":"size","shape":[1],"datatype":"FP64","data":[NaN]}]}',
        "tensor size: NaN and Infinity are not allowed",
    ),
    (
        b'{"inputs":[{"name":"size","shape":[1],"datatype":"FP64","data":[-Infinity]}]}',
        "tensor size: NaN and Infinity are not allowed",
    ),
    (
        b'{"inputs":[{"name":"size","shape":[1,1],"datatype":"FP64","data":[[1e999]]}]}',
        "tensor size: NaN and Infinity are not allowed",
    ),
    (
        {"inputs": [tensor("size", [1e300]), COLOUR]},
        "tensor size = 1e+300: must fit into a 32-bit float",
    ),
    (
        {"inputs": [tensor("sise", [1]), COLOUR]},
        "inputs = 'sise': is not a tensor; did you mean 'size'?",
    ),
    (
        {"inputs": [COLOUR]},
        "inputs = ['colour']: must be all model inputs or exactly shape_id; missing size",
    ),
    (
        {"inputs": [COLOUR, tensor("shape_id", ["k"], "BYTES")]},
        "inputs = ['colour', 'shape_id']: must be all model inputs or exactly shape_id",
    ),
    ({"inputs": [COLOUR, COLOUR]}, "inputs = 'colour': must be given once"),
    (
        {"inputs": [tensor("size", [1, 2], shape=[1, 2]), COLOUR]},
        "tensor size: shape = [1, 2]: must be [B] or [B, 1] with B at least 1",
    ),
    (
        {"inputs": [tensor("size", [], shape=[0])]},
        "tensor size: shape = [0]: must be [B] or [B, 1] with B at least 1",
    ),
    (
        {"inputs": [tensor("size", [1], shape=[-1])]},
        "tensor size: shape = [-1]: must be [B] or [B, 1] with B at least 1",
    ),
    (
        {"inputs": [tensor("size", [1, 2], shape=[3])]},
        "tensor size: data = '2 values': shape [3] needs 3",
    ),
    (
        {"inputs": [tensor("size", [1, 2]), COLOUR]},
        "tensor colour: shape = [1]: must have 2 rows like the others",
    ),
    (
        {"inputs": [tensor("size", ["1"]), COLOUR]},
        "tensor size = '1': must be a number for FP64",
    ),
    (
        {"inputs": [tensor("size", [True], "FP32"), COLOUR]},
        "tensor size = True: must be a number for FP32",
    ),
    (
        {"inputs": [tensor("size", [1.5], "INT64"), COLOUR]},
        "tensor size = 1.5: must be an integer for INT64",
    ),
    (
        {"inputs": [tensor("size", [300], "INT8"), COLOUR]},
        "tensor size = 300: must fit into INT8",
    ),
    (
        {"inputs": [tensor("size", ["big"], "BYTES"), COLOUR]},
        "tensor size = 'big': must be a number; the input is numeric",
    ),
    (
        {"inputs": [tensor("size", [1], "FP46"), COLOUR]},
        "tensor size: datatype = 'FP46': did you mean 'FP64'?",
    ),
    (
        {**by_inputs(1.0, "red"), "outputs": [{"name": "probability"}]},
        "outputs = 'probability': is not an output; known: score",
    ),
    (
        {**by_inputs(1.0, "red"), "id": "r\n1"},
        "id = 'r\\n1': must be at most 128 printable characters",
    ),
]


@pytest.mark.parametrize(("body", "message"), REFUSED)
def test_what_cannot_be_meant_is_refused_with_400(bench: Bench, body: Any, message: str) -> None:
    """The message names the tensor, the value and the rule."""
    [reply] = send(bench, body)

    assert (reply.status, reply.body) == (400, {"error": message})


def test_every_integer_type_and_columns_of_one_are_taken(bench: Bench) -> None:
    """``[B, 1]`` as nested or flat data; numbers of any type; null for a missing value."""
    bodies = [
        {"inputs": [tensor("size", [2], datatype), COLOUR]}
        for datatype in ("FP32", "FP64", "INT8", "INT64", "UINT8", "UINT64")
    ]
    bodies.append({"inputs": [tensor("size", [[2.0]], shape=[1, 1]), COLOUR]})
    bodies.append({"inputs": [tensor("size", [2.0], shape=[1, 1]), COLOUR]})
    replies = send(bench, *bodies, by_inputs(None, None))

    assert [reply.status for reply in replies] == [200] * 9
    scores = [reply.body["outputs"][0]["data"] for reply in replies]
    assert scores[:8] == [scores[0]] * 8
    assert scores[8] != scores[0]


def test_unknown_fields_are_ignored(bench: Bench) -> None:
    """As the protocol asks; stock clients send parameters."""
    body = {**by_inputs(1.0, "red"), "parameters": {"binary_data_output": False}, "x": 1}
    body["inputs"][0]["parameters"] = {"y": 2}

    assert [reply.status for reply in send(bench, body)] == [200]


@pytest.mark.parametrize(
    ("path", "method", "status", "message"),
    [
        ("/", "GET", 404, NO_PATH),
        ("/v2/models//infer", "POST", 404, NO_PATH),
        ("/v2/models/shapes/versions/1", "POST", 405, "method POST: must be GET"),
        (INFER, "GET", 405, "method GET: must be POST"),
        ("/v2/models/shape/infer", "POST", 404, "model 'shape' is not served; did you mean 'shapes'?"),
        ("/v2/models/shapes/versions/7", "GET", 404, "version '7' is not served; known: ['1']"),
    ],
)  # fmt: skip
def test_wrong_paths_and_methods_are_told_what_is_right(
    bench: Bench, path: str, method: str, status: int, message: str
) -> None:
    """Every refusal is JSON with one field."""
    [reply] = send(bench, by_inputs(1.0, "red"), path=path, method=method)

    assert (reply.status, reply.body) == (status, {"error": message})


def test_metadata_says_what_may_be_sent(bench: Bench) -> None:
    """All inputs with their types, or the entity keys; and whose reader fetches by them."""
    [server] = send(bench, None, path="/v2")
    [model] = send(bench, None, path="/v2/models/shapes/versions/1")

    assert server.body == {
        "name": "heliostat",
        "version": "0.1.0",
        "extensions": ["binary_tensor_data"],
    }
    assert model.body == {
        "name": "shapes",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": "size", "datatype": "FP64", "shape": [-1]},
            {"name": "colour", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [{"name": "score", "datatype": "FP32", "shape": [-1]}],
        "parameters": {"entity_keys": ["shape_id"], "feature_reader": "heliostat"},
    }


@pytest.mark.parametrize(
    ("headers", "status", "message"),
    [
        ({"content-length": "99999999"}, 413, "body = 99999999 bytes: at most 8388608"),
        ({"content-length": "x"}, 400, "header content-length: must be a number of bytes"),
        ({f"x-{n}": "v" for n in range(101)}, 431, "headers = 101: at most 100"),
        ({"x-long": "v" * 40_000}, 431, "headers = 40006 bytes: at most 32768"),
        (
            {"x-heliostat-at": "noon"},
            400,
            "header x-heliostat-at = 'noon': must be an ISO 8601 time",
        ),
        (
            {"x-heliostat-request-id": "r" * 129},
            400,
            "header x-heliostat-request-id = '" + "r" * 116 + "...: must be at most 128"
            " printable characters",
        ),
        (
            {"x-heliostat-request-id": "é"},
            400,
            "header x-heliostat-request-id = 'é': must be ASCII",
        ),
    ],
)
def test_headers_beyond_their_limits_are_refused(
    bench: Bench, headers: dict[str, str], status: int, message: str
) -> None:
    """Before anything else is done for the request."""
    [reply] = send(bench, by_key("k"), headers=headers)

    assert (reply.status, reply.body) == (status, {"error": message})


def test_a_body_that_grows_beyond_the_limit_is_not_read_to_its_end(bench: Bench) -> None:
    """Without a declared length, too."""

    async def story() -> Reply:
        await bench.gateway.policies.activate(bench.policy(1, bench.stable("1")))
        return await ask(bench.gateway, INFER, method="POST", pieces=[b"x" * (1 << 20)] * 10)

    reply = asyncio.run(story())

    assert (reply.status, reply.body) == (413, {"error": "body: at most 8388608 bytes"})
    assert reply.headers["connection"] == "close"


def packed(*texts: str) -> bytes:
    return b"".join(len(t.encode()).to_bytes(4, "little") + t.encode() for t in texts)


def binary_body(size: bytes, colour: bytes, **changes: Any) -> tuple[bytes, dict[str, str]]:
    """A body with both tensors in binary, and its headers."""
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "size", "shape": [2], "datatype": "FP32",
                    "parameters": {"binary_data_size": changes.get("claimed", len(size))},
                },
                {
                    "name": "colour", "shape": [2, 1], "datatype": "BYTES",
                    "parameters": {"binary_data_size": len(colour)},
                },
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()  # fmt: skip
    return head + size + colour, {"inference-header-content-length": str(len(head))}


def test_binary_tensors_are_taken_and_answered_as_json_ones(bench: Bench) -> None:
    """As stock clients send and want them."""
    body, headers = binary_body(struct.pack("<2f", 0.5, 1.5), packed("red", "blue"))
    plain = {
        "inputs": [tensor("size", [0.5, 1.5]), tensor("colour", ["red", "blue"], "BYTES")],
    }

    async def story() -> tuple[Any, Reply]:
        await bench.gateway.policies.activate(bench.policy(1, bench.stable("1")))
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        fields = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {"type": "http", "method": "POST", "path": INFER, "headers": fields}
        await bench.gateway(scope, receive, send)
        return sent, await ask(bench.gateway, INFER, plain)

    (start, answer), reply = asyncio.run(story())

    fields = dict(start["headers"])
    length = int(fields[b"inference-header-content-length"])
    assert fields[b"content-type"] == b"application/octet-stream"
    assert json.loads(answer["body"][:length])["outputs"] == [
        {"name": "score", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    ]
    assert list(struct.unpack("<2f", answer["body"][length:])) == reply.body["outputs"][0]["data"]


@pytest.mark.parametrize(
    ("size", "colour", "changes", "message"),
    [
        (b"1234", packed("a"), {"claimed": 99}, "binary_data_size = 99: must lie within the body"),
        (b"123", packed("a"), {}, "binary_data_size = 3: must be a multiple of 4"),
        (b"1234", packed("a")[:-1], {}, "tensor colour: a text is longer than the tensor's bytes"),
        (b"1234", b"\1\0\0\0\xff", {}, "tensor colour: texts must be UTF-8"),
        (
            struct.pack("<2f", 1.0, float("nan")),
            packed("a", "b"),
            {},
            "tensor size: NaN and Infinity are not allowed",
        ),
        (b"12345678", packed("a", "b") + b"", {"claimed": 4}, "a text is longer"),
    ],
)
def test_binary_tensors_that_do_not_fit_are_refused(
    bench: Bench, size: bytes, colour: bytes, changes: dict[str, Any], message: str
) -> None:
    """The message names the tensor."""
    body, headers = binary_body(size, colour, **changes)
    [reply] = send(bench, body, headers=headers)

    assert reply.status == 400
    assert message in reply.body["error"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_packed_bodies_are_unpacked_within_the_limit(bench: Bench, encoding: str) -> None:
    """A small body that unpacks to a large one is refused, and so is a broken one."""
    pack = gzip.compress if encoding == "gzip" else zlib.compress
    good = pack(json.dumps(by_inputs(1.0, "red")).encode())
    bodies = [good, pack(b" " * (9 << 20)), good[:-9], b"other", good + b"x"]
    replies = send(bench, *bodies, headers={"content-encoding": encoding})

    assert [reply.status for reply in replies] == [200, 413, 400, 400, 400]


def test_other_encodings_are_refused(bench: Bench) -> None:
    """With the status that says so."""
    [reply] = send(bench, b"x", headers={"content-encoding": "br"})

    assert (reply.status, reply.body) == (
        415,
        {"error": "header content-encoding: must be gzip or deflate"},
    )


def test_rows_are_limited() -> None:
    """One request is not a batch job."""
    request = protocol.decode(
        json.dumps({"inputs": [tensor("size", [1], shape=[10_001])]}).encode()
    )

    with pytest.raises(Refused) as caught:
        protocol.columns(request)

    assert (caught.value.status, caught.value.message) == (
        413,
        "tensor size: shape = [10001]: at most 10000 rows",
    )
