"""Typed models as the schema: frozen dataclasses that render to manifests and check foreign ones.

A field's type, its bounds and its default in the CRD stand in one place, so what Heliostat writes
and what it refuses cannot differ. A field that is None is not written.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, TypeVar

T = TypeVar("T")

Quantity = int | str
"""A Kubernetes quantity: 2, "500m", "4Gi"."""

_PLAIN: dict[Any, dict[str, Any]] = {
    bool: {"type": "boolean"},
    int: {"type": "integer", "format": "int32"},
    float: {"type": "number"},
    str: {"type": "string"},
    Quantity: {"x-kubernetes-int-or-string": True},
    Any: {},
}


def prop(
    *,
    name: str | None = None,
    core: str | None = None,
    default: Any = None,
    minimum: int | None = None,
    min_items: int | None = None,
    min_length: int | None = None,
    required: bool = False,
    unset: Any = None,
) -> Any:
    """Describe a field beyond its type.

    Args:
        name: In the manifest, where it is not the field's name in camelCase.
        core: Name of the Kubernetes definition that a mapping must follow.
        default: What the API server fills in; the field itself stays None.
        minimum: Least number.
        min_items: Least number of elements.
        min_length: Least number of characters.
        required: Must be set in a manifest, although the default may fill it.
        unset: What the field holds when it is not given.
    """
    schema = {"minimum": minimum, "minItems": min_items, "minLength": min_length}
    return dataclasses.field(
        default=unset,
        metadata={
            "name": name,
            "core": core,
            "required": required,
            "schema": {key: item for key, item in schema.items() if item is not None},
            "default": default,
        },
    )


def to_manifest(value: Any) -> Any:
    """Turn a typed model into plain values for YAML; fields that are None are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            key_of(field): to_manifest(item)
            for field in dataclasses.fields(value)
            if (item := getattr(value, field.name)) is not None
        }
    if isinstance(value, Mapping):
        return {str(key): to_manifest(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [to_manifest(item) for item in value]
    return value


def from_manifest(cls: type[T], value: Mapping[str, Any]) -> T:
    """Build a typed model from plain values that fit its schema.

    Raises:
        TypeError: A required field is missing or a key is unknown; check the schema first.
    """
    hints = typing.get_type_hints(cls)
    names = {key_of(field): field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = set(value) - set(names)
    if unknown:
        raise TypeError(f"{cls.__name__} has no {sorted(unknown)}")
    return cls(**{names[key]: _read(hints[names[key]], item) for key, item in value.items()})


def _read(hint: Any, value: Any) -> Any:
    hint = _bare(hint)
    if value is None:
        return None
    if dataclasses.is_dataclass(hint):
        return from_manifest(typing.cast("type[Any]", hint), value)
    if typing.get_origin(hint) is tuple:
        return tuple(_read(typing.get_args(hint)[0], item) for item in value)
    return value


def key_of(field: dataclasses.Field[Any]) -> str:
    """Give the manifest's name of a field.

    >>> @dataclasses.dataclass
    ... class Spec:
    ...     ray_version: str
    >>> key_of(dataclasses.fields(Spec)[0])
    'rayVersion'
    """
    given = field.metadata.get("name")
    if given:
        return str(given)
    first, *rest = field.name.split("_")
    return first + "".join(word.capitalize() for word in rest)


@cache
def structural(cls: type) -> dict[str, Any]:
    """Give the model's structural schema, in the form of a CRD's ``openAPIV3Schema``.

    Mappings that follow a Kubernetes definition are references ``core:<definition>``.
    """
    hints = typing.get_type_hints(cls)
    properties: dict[str, Any] = {}
    required = []
    for field in dataclasses.fields(cls):
        key = key_of(field)
        properties[key] = _of_field(field, hints[field.name])
        is_bare = field.default is dataclasses.MISSING
        if is_bare or field.metadata.get("required"):
            required.append(key)
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = sorted(required)
    return schema


def _of_field(field: dataclasses.Field[Any], hint: Any) -> dict[str, Any]:
    core = field.metadata.get("core")
    if core:
        schema: dict[str, Any] = {"$ref": f"core:{core}"}
        if typing.get_origin(_bare(hint)) is tuple:
            schema = {"type": "array", "items": schema}
        return schema
    schema = {**_of_hint(hint), **field.metadata.get("schema", {})}
    if field.metadata.get("default") is not None:
        schema["default"] = field.metadata["default"]
    return schema


def _of_hint(hint: Any) -> dict[str, Any]:
    hint = _bare(hint)
    if hint in _PLAIN:
        return dict(_PLAIN[hint])
    if dataclasses.is_dataclass(hint):
        return structural(typing.cast("type", hint))
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return {"type": "string", "enum": list(args)}
    if origin is tuple:
        return {"type": "array", "items": _of_hint(args[0])}
    inner = _of_hint(args[1]) if len(args) == 2 else {}
    return {"type": "object", "additionalProperties": inner} if inner else {"type": "object"}


def _bare(hint: Any) -> Any:
    """The type of a field that may be None."""
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        left = tuple(item for item in typing.get_args(hint) if item is not type(None))
        if len(left) == 1:
            return left[0]
        if set(left) == {int, str}:
            return Quantity
    return hint
