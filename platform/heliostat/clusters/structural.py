"""Compare a value with a structural OpenAPI schema, as the API server does before it stores one.

One walk serves three kinds of schema: the typed models (`heliostat.clusters.schema`), the
`openAPIV3Schema` of a CRD, and Kubernetes' own schemas. Fields that no schema knows are faults
here, since the API server drops them without a word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from heliostat.errors import nearest

Schema = Mapping[str, Any]
Resolve = Callable[[str], Schema]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Where a value leaves its schema; the path is relative to the value that was given."""

    path: str
    value: Any
    rule: str
    breaks: str | None = None


_COMBINING = frozenset(("allOf", "anyOf", "oneOf", "not"))


def _no_references(reference: str) -> Schema:
    raise KeyError(reference)


def with_defaults(schema: Schema, value: Any) -> Any:
    """Give the value with the schema's defaults filled in, as the API server stores it.

    Defaults inside an object are filled only where the object is written. References are left
    alone: Kubernetes' own definitions, to which they lead, carry no defaults.
    """
    if isinstance(value, Mapping):
        known = schema.get("properties", {})
        more = schema.get("additionalProperties")
        filled = {}
        for key, item in value.items():
            inner = known.get(key, more if isinstance(more, Mapping) else None)
            filled[key] = item if inner is None else with_defaults(inner, item)
        for key, inner in known.items():
            if filled.get(key) is None and "default" in inner:
                filled[key] = with_defaults(inner, inner["default"])
        return filled
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        return [with_defaults(schema["items"], item) for item in value]
    return value


def faults(
    schema: Schema, value: Any, resolve: Resolve = _no_references, path: str = ""
) -> Iterator[Fault]:
    """Walk the value beside its schema and give each place where they disagree.

    A null value of an optional field counts as absent, as it does for the API server.
    Reads ``type``, ``properties``, ``required``, ``additionalProperties``, ``items``, ``enum``,
    the bounds of numbers, texts, lists and objects, ``pattern``, ``anyOf``, ``oneOf``, ``allOf``,
    ``not``, ``$ref``, ``nullable`` and ``x-kubernetes-int-or-string``. Does not read ``format``
    nor CEL rules.
    """
    schema = _dereferenced(schema, resolve)
    if schema.get("x-kubernetes-int-or-string"):
        if not isinstance(value, int | str) or isinstance(value, bool):
            yield Fault(path=path, value=value, rule="must be a whole number or text")
        else:
            yield from _scalar_faults(schema, value, path)
        return
    expected = schema.get("type")
    types = (expected,) if isinstance(expected, str) else tuple(expected or ())
    if value is None:
        if types and "null" not in types and not schema.get("nullable"):
            yield Fault(path=path, value=None, rule=f"must be {_named(types)}")
        return
    if types and not any(_is_of(value, name) for name in types):
        yield Fault(path=path, value=value, rule=f"must be {_named(types)}")
        return
    if isinstance(value, Mapping):
        yield from _object_faults(schema, value, resolve, path)
    elif isinstance(value, list):
        yield from _list_faults(schema, value, resolve, path)
    else:
        yield from _scalar_faults(schema, value, path)
    if not _COMBINING.isdisjoint(schema):
        yield from _combined_faults(schema, value, resolve, path)


def _object_faults(
    schema: Schema, value: Mapping[str, Any], resolve: Resolve, path: str
) -> Iterator[Fault]:
    known: Mapping[str, Schema] = schema.get("properties", {})
    more = schema.get("additionalProperties")
    is_open = (
        schema.get("x-kubernetes-preserve-unknown-fields")
        or more is True
        or (not known and more is None)
    )
    for key in schema.get("required", ()):
        if value.get(key) is None:
            yield Fault(path=_join(path, key), value=None, rule="must be set")
    for key, item in value.items():
        where = _join(path, key)
        if key in known:
            if item is not None:
                yield from faults(known[key], item, resolve, where)
        elif isinstance(more, Mapping):
            yield from faults(more, item, resolve, where)
        elif not is_open:
            breaks = nearest(str(key), known) if known else None
            rule = "is no field here; the API server drops it without a word"
            yield Fault(path=where, value=item, rule=rule, breaks=breaks)
    yield from _bounds(schema, len(value), path, value, "Properties", "entries")


def _list_faults(schema: Schema, value: list[Any], resolve: Resolve, path: str) -> Iterator[Fault]:
    inner = schema.get("items")
    keys = schema.get("x-kubernetes-list-map-keys")
    seen: set[tuple[str, ...]] = set()
    for index, item in enumerate(value):
        where = f"{path}[{_label(item, index)}]"
        if isinstance(inner, Mapping):
            yield from faults(inner, item, resolve, where)
        if keys and isinstance(item, Mapping) and len(keys) == 1:
            identity = tuple(repr(item.get(key)) for key in keys)
            if identity in seen:
                yield Fault(path=where, value=item.get(keys[0]), rule=f"{keys[0]} must be unique")
            seen.add(identity)
    yield from _bounds(schema, len(value), path, value, "Items", "elements")


def _scalar_faults(schema: Schema, value: Any, path: str) -> Iterator[Fault]:
    allowed = schema.get("enum")
    if allowed is not None and value not in allowed:
        words = ", ".join(map(str, (item for item in allowed if item is not None)))
        yield Fault(path=path, value=value, rule=f"must be one of {words}")
    if isinstance(value, str):
        yield from _bounds(schema, len(value), path, value, "Length", "characters")
        pattern = schema.get("pattern")
        if pattern and not schema.get("x-kubernetes-int-or-string"):
            compiled = _compiled(pattern)
            if compiled is not None and not compiled.search(value):
                yield Fault(path=path, value=value, rule=f"must match {pattern}")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        least, most = schema.get("minimum"), schema.get("maximum")
        if least is not None and value < least:
            yield Fault(path=path, value=value, rule=f"must be at least {least:g}")
        if most is not None and value > most:
            yield Fault(path=path, value=value, rule=f"must be at most {most:g}")
        if schema.get("format") == "int32" and not -(2**31) <= value < 2**31:
            yield Fault(path=path, value=value, rule="must fit in 32 bits")


def _combined_faults(schema: Schema, value: Any, resolve: Resolve, path: str) -> Iterator[Fault]:
    for inner in schema.get("allOf", ()):
        yield from faults(_open(inner), value, resolve, path)
    for word in ("anyOf", "oneOf"):
        options = schema.get(word)
        if options:
            fitting = sum(not any(faults(_open(item), value, resolve)) for item in options)
            if fitting == 0 or (word == "oneOf" and fitting > 1 and not _overlaps(options)):
                yield Fault(path=path, value=value, rule=f"must fit one of {len(options)} forms")
    refused = schema.get("not")
    if refused is not None and not any(faults(_open(refused), value, resolve)):
        yield Fault(path=path, value=value, rule="must not have this form")


def _overlaps(options: list[Schema]) -> bool:
    """Say that options differ in scalar types only, where null fits several."""
    return all("type" in item and len(item) == 1 for item in options)


def _open(schema: Schema) -> Schema:
    """A part of a combination names only some fields; the others are another part's."""
    return {**schema, "x-kubernetes-preserve-unknown-fields": True}


def _bounds(
    schema: Schema, size: int, path: str, value: Any, word: str, unit: str
) -> Iterator[Fault]:
    least, most = schema.get(f"min{word}"), schema.get(f"max{word}")
    if least is not None and size < least:
        yield Fault(path=path, value=value, rule=f"must have at least {least} {unit}")
    if most is not None and size > most:
        yield Fault(path=path, value=value, rule=f"must have at most {most} {unit}")


def _dereferenced(schema: Schema, resolve: Resolve) -> Schema:
    reference = schema.get("$ref")
    return resolve(reference) if isinstance(reference, str) else schema


def _is_of(value: Any, name: str) -> bool:
    if name == "object":
        return isinstance(value, Mapping)
    if name == "array":
        return isinstance(value, list)
    if name == "string":
        return isinstance(value, str)
    if name == "boolean":
        return isinstance(value, bool)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if name == "integer":
        return is_number and float(value).is_integer()
    return is_number if name == "number" else value is None


def _named(types: tuple[str, ...]) -> str:
    words = {"object": "a mapping", "array": "a list", "string": "text", "boolean": "true or false",
             "integer": "a whole number", "number": "a number"}  # fmt: skip
    return " or ".join(words[name] for name in types if name in words)


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _label(item: Any, index: int) -> str:
    """Name a list's element as people do: by its name where it has one."""
    if isinstance(item, Mapping):
        for key in ("name", "groupName"):
            if isinstance(item.get(key), str):
                return str(item[key])
    return str(index)


@lru_cache(maxsize=2048)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    try:
        return re.compile(pattern)
    except re.error:  # Go's syntax has a few forms that Python's has not.
        return None
