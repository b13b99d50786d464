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


def document() -> dict[str, Any]:
    """Describe every route in OpenAPI 3.1."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes.ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
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
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.action,
        "summary": route.summary,
        "responses": {
            str(status): {"description": _STATUSES[status], **_content(route, status)}
            for status in sorted(statuses(route))
        },
    }
    names = [name for name in ("model", "version") if f"{{{name}}}" in route.path]
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in names
    ]
    if route.predicts:
        parameters += [_header(*item) for item in _HEADERS]
        schema = "Invocation" if route.action.startswith("invocations") else "InferRequest"
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": _reference(schema)}},
        }
    if parameters:
        operation["parameters"] = parameters
    operation["security"] = [] if route.role is None else [{}, {"bearer": []}]
    return operation


_HEADERS = (
    ("x-heliostat-request-id", "Comes back with the answer; names it for a late label.", 128),
    ("x-heliostat-unit", "Who is assigned to a variant; the same unit keeps its variant.", 256),
    ("x-heliostat-version", "Asks for one version; needs the role operate.", 64),
    ("x-heliostat-at", "ISO 8601 time as of which ages of features count.", 64),
)


def _header(name: str, words: str, most: int) -> dict[str, Any]:
    schema = {"type": "string", "maxLength": most}
    return {"name": name, "in": "header", "required": False, "description": words, "schema": schema}


def _content(route: Route, status: int) -> dict[str, Any]:
    if status != 200:
        name = "Error"
    elif route.action.startswith("invocations"):
        name = "Predictions"
    else:
        name = "InferResponse" if route.predicts else "Object"
    if status == 200 and route.action in ("index", "repository"):
        return {
            "content": {
                "application/json": {"schema": {"type": "array", "items": _reference("Object")}}
            }
        }
    return {"content": {"application/json": {"schema": _reference(name)}}}


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


def _schemas() -> dict[str, Any]:
    text = {"type": "string"}
    shape = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1}
    datatype = {
        "enum": ["BOOL", "BYTES", "FP32", "FP64"]
        + [f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)]
    }
    values = {"type": "array", "items": {}}
    tensor = {"name": text, "shape": shape, "datatype": datatype, "data": values}
    return {
        "Error": _object(["error"], error=text),
        "Object": {"type": "object"},
        "Tensor": _object(["name", "shape", "datatype"], **tensor),
        "InferRequest": _object(
            ["inputs"],
            id={"type": ["string", "null"]},
            inputs={"type": "array", "items": _reference("Tensor"), "minItems": 1},
            outputs={"type": ["array", "null"], "items": _object(["name"], name=text)},
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
            "properties": {
                "dataframe_split": _object(["columns", "data"], columns=values, data=values),
                "dataframe_records": {"type": "array", "items": {"type": "object"}},
                "instances": values,
                "inputs": {"type": ["object", "array"]},
            },
            "minProperties": 1,
        },
        "Predictions": _object(["predictions"], predictions=values),
    }
