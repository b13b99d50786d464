"""The OpenAPI document of the gateway, made from the table of its routes."""

from __future__ import annotations

from typing import Any

from heliostat import __version__
from heliostat.serving import routes
from heliostat.serving.routes import Route

_STATUSES = {
    200: "The answer.",
    400: "The request cannot be meant; the error names the header, tensor or value.",
    401: "A credential is needed, or it is not good.",
    403: "The caller may not do this.",
    404: "No such path, model or version.",
    405: "Another method is needed.",
    408: "The request was not complete in time.",
    413: "The body, or its number of rows, is too large.",
    415: "The body's encoding is not known.",
    429: "More requests than the caller may send; see Retry-After.",
    431: "Too many or too large headers.",
    500: "The version could not answer, or the ingress had no process to ask.",
    503: "Not ready or overloaded; see Retry-After.",
}
_OF_INGRESS = {400: "text/html", 408: "text/html", 500: "text/plain"}
"""What the ingress writes where it refuses a request itself."""

_OF_GET = (200, 400, 401, 403, 404, 405, 408, 431, 500, 503)


def statuses(route: Route) -> frozenset[int]:
    """Every status that a client may see on this route, the ingress' own answers included.

    >>> statuses(routes.find("/v2", "GET").route) - {200, 400, 404, 405, 408, 431, 500, 503}
    frozenset()
    """
    found = set(_STATUSES if route.predicts else _OF_GET)
    if route.role is None:
        found -= {401, 403}
    elif not route.predicts:
        found |= {429}
    return frozenset(found)


def document(*, is_guarded: bool) -> dict[str, Any]:
    """Describe every route in OpenAPI 3.1.

    Args:
        is_guarded: Whether callers need a key or a token where a route has a role.
    """
    paths: dict[str, dict[str, Any]] = {}
    for route in routes.ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, is_guarded)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Heliostat",
            "version": __version__,
            "description": "The Open Inference Protocol, version 2, and what belongs to it.",
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
    }


def _operation(route: Route, is_guarded: bool) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.action,
        "summary": route.summary,
        "responses": {
            str(status): {
                "description": _STATUSES[status],
                **_answer_headers(route, status),
                **_content(route, status),
            }
            for status in sorted(statuses(route))
        },
    }
    names = [name for name in ("model", "version") if f"{{{name}}}" in route.path]
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in names
    ]
    if route.predicts:
        is_mlflow = route.action.startswith("invocations")
        parameters += [_header(*item) for item in _HEADERS]
        if not is_mlflow:
            parameters.append(_header(*_BINARY_HEADER))
        operation["requestBody"] = _body(is_mlflow=is_mlflow)
    if parameters:
        operation["parameters"] = parameters
    operation["security"] = _security(route, is_guarded)
    return operation


def _security(route: Route, is_guarded: bool) -> list[dict[str, list[str]]]:
    if route.role is None:
        return []
    either: list[dict[str, list[str]]] = [{"bearer": []}, {"key": []}]
    return either if is_guarded else [{}, *either]


_PRINTABLE = "^[ -~]*$"

_HEADERS = (
    (
        "x-heliostat-request-id",
        "Comes back with the answer; names it for a late label.",
        {"type": "string", "maxLength": 128, "pattern": _PRINTABLE},
    ),
    (
        "x-heliostat-unit",
        "Who is assigned to a variant; the same unit keeps its variant. Printable, in UTF-8.",
        {"type": "string", "maxLength": 256},
    ),
    (
        "x-heliostat-version",
        "Asks for one version; needs the role operate.",
        {"type": "string", "maxLength": 64},
    ),
    (
        "x-heliostat-at",
        "Time as of which ages of features count, in any form of ISO 8601.",
        {"type": "string", "maxLength": 64},
    ),
)

_BINARY_HEADER = (
    "inference-header-content-length",
    "Bytes of the JSON part of a body; the raw values of binary tensors come behind it.",
    {"type": "integer", "minimum": 0},
)


def _header(name: str, words: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": words, "schema": schema}


def _body(*, is_mlflow: bool) -> dict[str, Any]:
    kinds = {
        "application/json": {"schema": _reference("Invocation" if is_mlflow else "InferRequest")}
    }
    if not is_mlflow:
        kinds["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    return {
        "required": True,
        "description": "May be packed, with Content-Encoding gzip or deflate. The type is not looked at.",
        "content": kinds,
    }


def _answer_headers(route: Route, status: int) -> dict[str, Any]:
    known: dict[str, Any] = {
        401: {"www-authenticate": _text(required=True)},
        405: {"allow": _text(required=True)},
        429: {"retry-after": _number(required=True)},
        503: {"retry-after": _number(required=False)},
    }.get(status, {})
    if status == 200 and route.predicts:
        known = {
            "x-heliostat-request-id": _text(required=True),
            "x-heliostat-variant": {
                "required": True,
                "schema": {"enum": ["stable", "candidate", "baseline", "previous"]},
            },
            "x-heliostat-version": _text(required=True),
            "x-heliostat-epoch": _number(required=True),
            "x-heliostat-fallback": {"required": True, "schema": {"enum": ["0", "1"]}},
        }
    return {"headers": known} if known else {}


def _text(*, required: bool) -> dict[str, Any]:
    return {"required": required, "schema": {"type": "string"}}


def _number(*, required: bool) -> dict[str, Any]:
    return {"required": required, "schema": {"type": "integer", "minimum": 0}}


def _content(route: Route, status: int) -> dict[str, Any]:
    kinds: dict[str, Any] = {}
    if status != 200:
        kinds["application/json"] = {"schema": _reference("Error")}
        if status in _OF_INGRESS:
            kinds[_OF_INGRESS[status]] = {"schema": {"type": "string"}}
    elif route.action in ("index", "repository"):
        kinds["application/json"] = {"schema": {"type": "array", "items": _reference("Object")}}
    elif route.action.startswith("invocations"):
        kinds["application/json"] = {"schema": _reference("Predictions")}
    elif route.predicts:
        kinds["application/json"] = {"schema": _reference("InferResponse")}
        kinds["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    else:
        kinds["application/json"] = {"schema": _reference("Object")}
    return {"content": kinds}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _schemas() -> dict[str, Any]:
    text = {"type": "string"}
    shape = {
        "type": "array",
        "items": {"type": "integer", "minimum": 1},
        "minItems": 1,
        "maxItems": 2,
    }
    datatype = {
        "enum": ["BOOL", "BYTES", "FP32", "FP64"]
        + [f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)]
    }
    values = {"type": "array", "items": {}}
    size = {"type": ["integer", "null"], "minimum": 0}
    wanted = _object(["name"], name=text, parameters=_object([], binary_data={"type": "boolean"}))
    tensor = {
        "name": text,
        "shape": shape,
        "datatype": datatype,
        "data": values,
        "parameters": _object([], binary_data_size=size),
    }
    forms = {
        "dataframe_split": _object(
            ["columns", "data"],
            columns={"type": "array", "items": text},
            data={"type": "array", "items": values},
        ),
        "dataframe_records": {"type": "array", "items": {"type": "object"}, "minItems": 1},
        "instances": {**values, "minItems": 1},
        "inputs": {"type": ["object", "array"]},
    }
    return {
        "Error": _object(["error"], error=text),
        "Object": {"type": "object"},
        "Tensor": _object(["name", "shape", "datatype"], **tensor),
        "InferRequest": _object(
            ["inputs"],
            id={"type": ["string", "null"], "maxLength": 128, "pattern": _PRINTABLE},
            inputs={"type": "array", "items": _reference("Tensor"), "minItems": 1},
            outputs={"type": ["array", "null"], "items": wanted},
            parameters=_object([], binary_data_output={"type": "boolean"}),
        ),
        "InferResponse": _object(
            ["model_name", "model_version", "id", "outputs"],
            model_name=text,
            model_version=text,
            id=text,
            outputs={"type": "array", "items": _reference("Tensor")},
        ),
        "Invocation": {
            "type": "object",
            "properties": forms,
            "oneOf": [{"required": [form]} for form in forms],
        },
        "Predictions": _object(["predictions"], predictions=values),
    }
