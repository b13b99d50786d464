"""The corpus of bad input: what is sent, and which answers are allowed.

`CASES` say requests in words that an ASGI application and a socket both understand; `RAW` are
bytes that only a real chain of servers can be sent. Both are for a model ``shapes`` with a
numeric input ``size`` and a categorical ``colour``.
"""

from __future__ import annotations

import gzip
import json
import zlib
from dataclasses import dataclass, field
from typing import Any

INFER = "/v2/models/shapes/infer"
LIMIT = 8 << 20
"""The gateway's limit for bodies, as it is by default."""


@dataclass(frozen=True, slots=True)
class Case:
    """One request and the statuses that may answer it."""

    name: str
    body: bytes = b""
    statuses: frozenset[int] = frozenset({400})
    path: str = INFER
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    error: str = ""
    """What the message must hold."""


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes on a connection, and the statuses that may come back; 0 is a closed connection."""

    name: str
    sent: bytes
    statuses: frozenset[int]


def tensor(name: str, data: str, datatype: str, shape: str = "[1]") -> str:
    """One tensor; data and shape as JSON text."""
    return f'{{"name":"{name}","shape":{shape},"datatype":"{datatype}","data":{data}}}'


def request(size: str = tensor("size", "[1]", "FP64"), colour: str | None = None) -> bytes:
    """A request body; by default a good one."""
    colour = tensor("colour", '["red"]', "BYTES") if colour is None else colour
    return f'{{"inputs":[{size},{colour}]}}'.encode()


GOOD = request()


def size(data: str, datatype: str = "FP64", shape: str = "[1]") -> bytes:
    """A request with other values for ``size``."""
    return request(tensor("size", data, datatype, shape))


def colour(data: str, datatype: str = "BYTES", shape: str = "[1]") -> bytes:
    """A request with other values for ``colour``."""
    return request(colour=tensor("colour", data, datatype, shape))


def binary(raw: bytes, *, bytes_said: Any, shape: str = "[1]", datatype: str = "FP32") -> Any:
    """A request whose ``size`` comes as raw bytes, and the length of its JSON part."""
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": "size", "shape": json.loads(shape), "datatype": datatype,
                    "parameters": {"binary_data_size": bytes_said},
                },
                {"name": "colour", "shape": [1], "datatype": "BYTES", "data": ["red"]},
            ]
        }
    ).encode()  # fmt: skip
    return head + raw, len(head)


def _cases() -> list[Case]:
    found: list[Case] = []

    def add(name: str, body: bytes, *statuses: int, **more: Any) -> None:
        found.append(Case(name, body, frozenset(statuses or {400}), **more))

    # --- no request at all
    for name, body in {
        "empty": b"",
        "blank": b" \n",
        "null": b"null",
        "number": b"1",
        "text": b'"inputs"',
        "list": b"[]",
        "half": GOOD[:-7],
        "junk after": GOOD + b"x",
        "second object": GOOD + GOOD,
        "byte order mark": b"\xef\xbb\xbf" + GOOD,
        "UTF-16": GOOD.decode().encode("utf-16"),
        "bad UTF-8": GOOD.replace(b"red", b"r\xff\xfe"),
        "overlong UTF-8": GOOD.replace(b"red", b"\xc0\xaf"),
        "lone surrogate": GOOD.replace(b"red", b"\\ud800"),
        "raw control character": GOOD.replace(b"red", b"r\x00d"),
        "single quotes": GOOD.replace(b'"', b"'"),
        "comment": b"/* */" + GOOD,
        "trailing comma": GOOD.replace(b"]}]}", b"],}]}"),
        "form": b"size=1&colour=red",
        "XML": b"<?xml version='1.0'?><a/>",
        "pickle": b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00}.",
        "deep nesting": b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "deep object": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        "inputs is an object": b'{"inputs":{"size":1}}',
        "inputs is null": b'{"inputs":null}',
        "no inputs": b'{"inputs":[]}',
        "input is null": b'{"inputs":[null]}',
        "tensor without name": b'{"inputs":[{"shape":[1],"datatype":"FP32","data":[1]}]}',
        "tensor without shape": b'{"inputs":[{"name":"size","datatype":"FP32","data":[1]}]}',
        "tensor without datatype": b'{"inputs":[{"name":"size","shape":[1],"data":[1]}]}',
        "tensor without data": request('{"name":"size","shape":[1],"datatype":"FP32"}'),
        "data is null": size("null"),
        "data is a number": size("1"),
        "data is an object": size("{}"),
        "id is a number": GOOD[:-1] + b',"id":1}',
        "id is long": GOOD[:-1] + b',"id":"' + b"i" * 129 + b'"}',
        "id has a line break": GOOD[:-1] + b',"id":"a\\r\\nx: y"}',
        "unknown output": GOOD[:-1] + b',"outputs":[{"name":"other"}]}',
        "parameters is a list": GOOD[:-1] + b',"parameters":[]}',
    }.items():
        add(f"body: {name}", body)

    # --- no numbers
    for text in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999"):
        add(f"number: {text}", size(f"[{text}]"), error="tensor size")
        add(f"number: nested {text}", size(f"[[{text}]]", shape="[1,1]"), error="tensor size")
    for name, text in {
        "beyond float32": "1e39",
        "beyond float32, negative": "-1e39",
        "5,000 digits": "9" * 5_000,
        "text": '"1.5"',
        "empty text": '""',
        "bool": "true",
        "list": "[1]",
        "object": '{"a":1}',
        "hexadecimal": "0x10",
        "leading zero": "01",
        "plus": "+1",
        "no digits": ".",
    }.items():
        add(f"number: {name}", size(f"[{text}]"))
    for name, datatype, text in (
        ("fraction", "INT64", "1.5"),
        ("beyond INT8", "INT8", "128"),
        ("below INT8", "INT8", "-129"),
        ("beyond INT64", "INT64", "9223372036854775808"),
        ("negative UINT8", "UINT8", "-1"),
        ("beyond UINT64", "UINT64", "18446744073709551616"),
        ("bool is no INT32", "INT32", "true"),
        ("text is no INT32", "INT32", '"1"'),
        ("number is no BOOL", "BOOL", "1"),
        ("number is no BYTES", "BYTES", "1"),
        ("unknown type", "FP128", "1"),
        ("lower-case type", "fp32", "1"),
        ("empty type", "", "1"),
    ):
        add(f"datatype: {name}", size(f"[{text}]", datatype))

    # --- wrong shapes
    for name, data, shape in (
        ("empty", "[1]", "[]"),
        ("zero", "[]", "[0]"),
        ("negative", "[1]", "[-1]"),
        ("fraction", "[1]", "[1.5]"),
        ("text", "[1]", '["1"]'),
        ("null", "[1]", "null"),
        ("huge", "[1]", "[9223372036854775807]"),
        ("beyond 64 bits", "[1]", "[99999999999999999999]"),
        ("three axes", "[[[1]]]", "[1,1,1]"),
        ("two columns", "[1,2]", "[1,2]"),
        ("more than data", "[1]", "[2]"),
        ("less than data", "[1,2]", "[1]"),
        ("other rows than the rest", "[1,2]", "[2]"),
        ("ragged", "[[1],[1,2]]", "[2,1]"),
    ):
        add(f"shape: {name}", size(data, shape=shape), 400, 413)
    rows = 100_000
    add(
        "rows: 100,000",
        request(
            tensor("size", f"[{','.join('1' * rows)}]", "FP64", f"[{rows}]"),
            tensor("colour", f"[{','.join(['null'] * rows)}]", "BYTES", f"[{rows}]"),
        ),
        413,
    )

    # --- wrong names
    one = tensor("size", "[1]", "FP64")
    for name, body in {
        "missing": b'{"inputs":[' + one.encode() + b"]}",
        "twice": request(one, one),
        "extra": request(
            one, tensor("colour", '["red"]', "BYTES") + "," + tensor("x", "[1]", "FP32")
        ),
        "another case": request(tensor("Size", "[1]", "FP64")),
        "confusable": request(tensor("s\u0456ze", "[1]", "FP64")),
        "full width": request(tensor("\uff53ize", "[1]", "FP64")),
        "empty": request(tensor("", "[1]", "FP64")),
        "long": request(tensor("s" * 100_000, "[1]", "FP64")),
        "zero width": request(tensor("size\u200b", "[1]", "FP64")),
    }.items():
        add(f"name: {name}", body)

    # --- content encodings and binary parts
    packed = gzip.compress(GOOD)
    for name, body, encoding, statuses in (
        ("bomb", gzip.compress(b"0" * (LIMIT * 4)), "gzip", (413,)),
        ("not gzip", GOOD, "gzip", (400,)),
        ("cut", packed[:-9], "gzip", (400,)),
        ("twice", packed + packed, "gzip", (400,)),
        ("deflate of junk", b"junk", "deflate", (400,)),
        ("cut deflate", zlib.compress(GOOD)[:-5], "deflate", (400,)),
        ("brotli", GOOD, "br", (415,)),
        ("list", packed, "gzip, gzip", (415,)),
    ):
        add(f"encoding: {name}", body, *statuses, headers={"content-encoding": encoding})
    nan = b"\x00\x00\xc0\x7f"
    for name, (body, length), said in (
        ("NaN", binary(nan, bytes_said=4), None),
        ("Infinity", binary(b"\x00\x00\x80\x7f", bytes_said=4), None),
        ("too short", binary(b"\0\0", bytes_said=4), None),
        ("too long", binary(b"\0" * 9, bytes_said=4), None),
        ("negative", binary(b"\0" * 4, bytes_said=-4), None),
        ("no multiple", binary(b"\0" * 3, bytes_said=3), None),
        ("other rows", binary(b"\0" * 8, bytes_said=8), None),
        ("text as size", binary(b"\0" * 4, bytes_said="4"), None),
        ("header beyond the body", binary(b"\0" * 4, bytes_said=4), "99999"),
        ("header negative", binary(b"\0" * 4, bytes_said=4), "-1"),
        ("header no number", binary(b"\0" * 4, bytes_said=4), "x"),
        ("header zero", binary(b"\0" * 4, bytes_said=4), "0"),
        ("header long", binary(b"\0" * 4, bytes_said=4), "9" * 40),
        ("unknown type", binary(b"\0" * 4, bytes_said=4, datatype="FP16"), None),
    ):
        header = {"inference-header-content-length": said or str(length)}
        error = "tensor size" if name in ("NaN", "Infinity") else ""
        add(f"binary: {name}", body, headers=header, error=error)

    # --- sizes
    pad = b" " * (LIMIT - len(GOOD))
    add("size: limit - 1", GOOD + pad[:-1], 200)
    add("size: limit", GOOD + pad, 200)
    add("size: limit + 1", GOOD + pad + b" ", 413)
    add("size: 3 x limit", b" " * (3 * LIMIT), 413)

    # --- headers
    for name, headers in {
        "unit too long": {"x-heliostat-unit": "u" * 257},
        "unit with a control character": {"x-heliostat-unit": "a\x7fb"},
        "id too long": {"x-heliostat-request-id": "i" * 129},
        "id not ASCII": {"x-heliostat-request-id": "\u00e9"},
        "time is a word": {"x-heliostat-at": "yesterday"},
        "time beyond the calendar": {"x-heliostat-at": "99999-01-01"},
        "time at the calendar's edge": {"x-heliostat-at": "0001-01-01T00:00:00+14:00"},
    }.items():
        add(f"header: {name}", GOOD, headers=headers)
    named = {"x-heliostat-request-id": "a"}
    add("header: a good id beside a bad one", GOOD[:-1] + b',"id":"\xc3\xa9"}', headers=named)
    add("header: unknown version", GOOD, 404, headers={"x-heliostat-version": "9"})
    other = {"x-heliostat-version": "2"}
    add(
        "header: not the path's version",
        GOOD,
        path="/v2/models/shapes/versions/1/infer",
        headers=other,
    )
    add("header: many", GOOD, 431, 400, headers={f"x-h{n}": "1" for n in range(120)})
    add("header: large", GOOD, 431, 400, headers={"x-large": "h" * 40_000})

    # --- paths and methods
    for path, statuses in {
        "/": (404, 405),
        "/v2/models/other/infer": (404,),
        "/v2/models/shapes": (405,),
        "/v2/models/shapes/versions/9/infer": (404,),
        "/v2/models/shapes/versions//infer": (404,),
        "/v2/models/shapes/../shapes/infer": (404,),
        "/v2/models/..%2f..%2fetc%2fpasswd/infer": (404,),
        "/v2/models/shapes/infer/": (404,),
        "/v2/models/shapes/INFER": (404,),
        "/v2/models/" + "m" * 300 + "/infer": (404,),
        "/v2/models/sh%00apes/infer": (404, 400),
        "/v3/models/shapes/infer": (404,),
        "/v2/repository/models/shapes/load": (404,),
        "/v2/models/shapes/infer%20": (404,),
    }.items():
        add(f"path: {path[:50]}", GOOD, *statuses, path=path)
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        add(f"method: {method}", GOOD, 405, method=method)

    # --- MLflow's payloads
    for name, text in {
        "two forms": '{"inputs":{"size":1},"instances":[1]}',
        "none": "{}",
        "null": '{"instances":null}',
        "a form beside null": '{"instances":[[1,"red"]],"inputs":null}',
        "no rows": '{"dataframe_records":[]}',
        "ragged records": '{"dataframe_records":[{"size":1,"colour":"red"},{"size":1}]}',
        "ragged split": '{"dataframe_split":{"columns":["size","colour"],"data":[[1]]}}',
        "twice a column": '{"dataframe_split":{"columns":["size","size"],"data":[[1,1]]}}',
        "NaN": '{"dataframe_records":[{"size":NaN,"colour":"red"}]}',
        "nested": '{"dataframe_records":[{"size":[1],"colour":"red"}]}',
        "bool": '{"dataframe_records":[{"size":true,"colour":"red"}]}',
        "text for a number": '{"dataframe_records":[{"size":"1","colour":"red"}]}',
        "columns of different length": '{"inputs":{"size":[1,2],"colour":["red"]}}',
        "rows of numbers": '{"instances":[1,2]}',
        "unknown column": '{"dataframe_records":[{"sise":1,"colour":"red"}]}',
    }.items():
        add(f"invocations: {name}", text.encode(), path="/invocations")
    return found


CASES = _cases()

# Odd, yet right: a refusal would be our fault.
FINE = [
    Case(f"fine: {name}", body, frozenset({200}), headers=headers or {})
    for name, body, headers in (
        ("as it should be", GOOD, None),
        ("minus zero", size("[-0.0]"), None),
        ("denormal", size("[1e-320]"), None),
        ("missing values", request(tensor("size", "[null]", "FP64"), tensor("colour", "[null]", "BYTES")), None),
        ("unseen category", colour('["\u00fcnknown \U0001f600"]'), None),
        ("duplicate key, the last counts", GOOD[:-1] + b',"id":"a","id":"b"}', None),
        ("unknown field", GOOD[:-1] + b',"more":{"x":[1]}}', None),
        ("integers for a float", size("[3]", "INT32"), None),
        ("column", size("[[1]]", shape="[1,1]"), None),
        ("gzip", gzip.compress(GOOD), {"content-encoding": "gzip"}),
        ("deflate", zlib.compress(GOOD), {"content-encoding": "deflate"}),
        ("another content type", GOOD, {"content-type": "text/plain"}),
        ("Serve's control headers", GOOD, {"x-request-timeout-seconds": "0"}),
        ("unit beyond ASCII", GOOD, {"x-heliostat-unit": "J\u00fcrgen"}),
    )
]  # fmt: skip


def http(case: Case) -> bytes:
    """The case as bytes for a connection of its own."""
    lines = [f"{case.method} {case.path} HTTP/1.1", "host: a", "connection: close"]
    lines += [f"{name}: {value}" for name, value in case.headers.items()]
    lines += [f"content-length: {len(case.body)}", "", ""]
    return "\r\n".join(lines).encode() + case.body


def _head(*lines: str, path: str = INFER, method: str = "POST", host: str = "host: a") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", host, *lines, "", ""]).encode("latin-1")


_LENGTH = f"content-length: {len(GOOD)}"
_NO = frozenset({400, 0})

RAW = [
    Raw("two lengths", _head(_LENGTH, "content-length: 5") + GOOD, _NO),
    Raw("length with plus", _head(f"content-length: +{len(GOOD)}") + GOOD, _NO),
    Raw("length negative", _head("content-length: -1") + GOOD, _NO),
    Raw("length hexadecimal", _head("content-length: 0x10") + GOOD, _NO),
    Raw("length beyond 64 bits", _head("content-length: 99999999999999999999") + GOOD, _NO | {413}),
    Raw("unknown transfer encoding", _head("transfer-encoding: xchunked") + GOOD, _NO | {501}),
    Raw("space before colon", _head("transfer-encoding : chunked") + b"0\r\n\r\n", _NO),
    Raw("bad chunk size", _head("transfer-encoding: chunked") + b"zz\r\nabc\r\n0\r\n\r\n", _NO),
    Raw("negative chunk size", _head("transfer-encoding: chunked") + b"-1\r\n", _NO),
    Raw("NUL in a header", _head("x-a: a\0b", _LENGTH) + GOOD, _NO),
    Raw("no colon", _head("nonsense", _LENGTH) + GOOD, _NO),
    Raw("space in a name", _head("x a: b", _LENGTH) + GOOD, _NO),
    Raw("two hosts", _head("host: b", _LENGTH) + GOOD, _NO),
    Raw("no method", b"\x16\x03\x01\x02\x00\x01\x00\x01", _NO),
    Raw("HTTP/9.9", _head(_LENGTH).replace(b"HTTP/1.1", b"HTTP/9.9") + GOOD, _NO | {200, 505}),
    Raw("space in the path", _head(_LENGTH, path="/v2/a b") + GOOD, _NO),
    Raw("1 MB header", _head("x-a: " + "a" * (1 << 20), _LENGTH) + GOOD, _NO | {431}),
    Raw(
        "10,000 headers", _head(*(f"x-{n}: 1" for n in range(10_000)), _LENGTH) + GOOD, _NO | {431}
    ),
    Raw("long path", _head(_LENGTH, path="/" + "a" * 300_000) + GOOD, _NO | {414, 431}),
]
"""What breaks HTTP itself. Length together with transfer encoding, bare line feeds and a missing
host are the ingress' to read: `SMUGGLED` asks that they never make two requests of one."""

_HIDDEN = b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\n\r\n"
_CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD)

SMUGGLED = [
    Raw("length and chunks", _head("content-length: 5", "transfer-encoding: chunked") + b"0\r\n\r\n" + _HIDDEN, _NO),
    Raw("chunks and length", _head("transfer-encoding: chunked", f"content-length: {len(_CHUNKED + _HIDDEN)}") + _CHUNKED + _HIDDEN, _NO | {200}),
    Raw("chunked twice", _head("transfer-encoding: chunked", "transfer-encoding: identity") + b"0\r\n\r\n" + _HIDDEN, _NO | {501}),
]  # fmt: skip
"""Requests with another one inside: at most one answer may come back."""
