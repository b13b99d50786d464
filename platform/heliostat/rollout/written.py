"""Builds dataclasses from plain JSON values, with the place, the value and the rule of each mistake."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from heliostat.config import require
from heliostat.errors import ConfigError, nearest

T = TypeVar("T")


def build(kind: type[T], raw: object, where: str) -> T:
    """Build a dataclass from a JSON object; missing keys take their defaults.

    Args:
        kind: A dataclass whose fields are texts, numbers, booleans, other such dataclasses,
            tuples of these, or None.
        raw: What was read.
        where: Names the object in messages.

    Raises:
        ConfigError: Not an object, an unknown key (naming the nearest right one), a missing
            one, a value of another type, or what the dataclass itself refuses.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if not isinstance(raw, Mapping):
        raise ConfigError(where, raw, "must be a JSON object")
    for key in raw:
        require(
            key in fields, f"{where}.{key}", raw[key], "is not known; " + nearest(str(key), fields)
        )
    for name, field in fields.items():
        missing = dataclasses.MISSING
        needed = field.default is missing and field.default_factory is missing
        require(not needed or name in raw, f"{where}.{name}", None, "must be given")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _value(raw[name], hints[name], f"{where}.{name}") for name in raw})


def _value(raw: object, hint: Any, where: str) -> Any:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if raw is None:
            return None
        hint = next(option for option in options if option is not type(None))
        return _value(raw, hint, where)
    if origin is tuple:
        require(isinstance(raw, list | tuple), where, raw, "must be a list")
        return tuple(_value(item, options[0], where) for item in typing.cast("list[Any]", raw))
    if dataclasses.is_dataclass(hint):
        return build(typing.cast("type[Any]", hint), raw, where)
    if hint is bool:
        require(isinstance(raw, bool), where, raw, "must be true or false")
        return raw
    if hint is int:
        require(type(raw) is int, where, raw, "must be a whole number")
        return raw
    if hint is float:
        return _number(where, raw)
    require(isinstance(raw, str), where, raw, "must be text")
    return raw


def _number(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(where, value, "must be a finite number")
    return float(value)
