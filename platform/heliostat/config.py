"""Typed run configuration: load a recipe, override fields, check, print and hash it.

A recipe is a function without arguments that returns one complete frozen dataclass:
``--recipe jobs.shop:demo``. ``--set a.b=3`` changes one typed field; there is no
flag per field.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from typing import Any, TypeVar

from heliostat.errors import ConfigError, nearest

T = TypeVar("T")

_NAME = re.compile(r"^[a-z][a-z0-9_-]{0,62}$")


def require(holds: bool, where: str, value: object, rule: str, **more: str) -> None:
    """Raise `ConfigError` for `where` unless the rule holds; for use in ``__post_init__``."""
    if not holds:
        raise ConfigError(where, value, rule, **more)


def require_name(where: str, value: str) -> None:
    """Check a name that becomes part of paths, URLs and table names.

    Raises:
        ConfigError: Not 1-63 characters of ``a-z 0-9 _ -``, beginning with a letter.
    """
    require(
        bool(_NAME.match(value)),
        where,
        value,
        "must be 1 to 63 characters of a-z, 0-9, _ and -, beginning with a letter",
    )


def load(reference: str) -> Any:
    """Import the recipe ``module:function``, call it and return its config.

    Raises:
        ConfigError: As `function`, or the function does not return a dataclass.
    """
    config = function(reference, "--recipe")()
    require(
        dataclasses.is_dataclass(config), "--recipe", reference, "must return a dataclass config"
    )
    return config


def function(reference: str, where: str) -> Callable[..., Any]:
    """Import ``module:function`` and return the function, uncalled.

    Args:
        where: Name of the option or field that holds the reference, for errors.

    Raises:
        ConfigError: The reference has another form, or the module or function does not exist.
            An import error inside the module itself is not hidden.

    >>> function("math:hypot", "--embed")(3, 4)
    5.0
    """
    module_name, _, name = reference.partition(":")
    require(bool(module_name and name), where, reference, "must be written module:function")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        raise ConfigError(where, reference, f"module {error.name!r} must be importable") from error
    found = getattr(module, name, None)
    if not callable(found):
        known = [
            key for key, value in vars(module).items()
            if isinstance(value, types.FunctionType) and not key.startswith("_")
        ]  # fmt: skip
        raise ConfigError(
            where, reference, f"must name a function of {module_name}", breaks=nearest(name, known)
        )
    result: Callable[..., Any] = found
    return result


def override(config: T, assignments: Sequence[str]) -> T:
    """Return a copy of the config with ``a.b=value`` applied, each checked against its type.

    Args:
        config: A dataclass, possibly nested; not changed.
        assignments: Texts ``path=value``. A value is read as JSON, else taken as text.
            Where a field is a mapping, the next part of the path is its key.

    Raises:
        ConfigError: An unknown key (with the nearest right one) or a value of another type;
            and whatever the dataclass itself refuses when it is built again.

    >>> @dataclasses.dataclass(frozen=True, kw_only=True)
    ... class Train:
    ...     epochs: int = 3
    >>> override(Train(), ["epochs=5"])
    Train(epochs=5)
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        require(bool(equals and path), "--set", assignment, "must be written key=value")
        config = _replace(config, path.split("."), text, path)
    return config


def _replace(node: Any, path: list[str], text: str, where: str) -> Any:
    key, rest = path[0], path[1:]
    if isinstance(node, Mapping):
        if key not in node:
            raise ConfigError("--set", where, f"has no key {key!r}", breaks=nearest(key, node))
        changed = _replace(node[key], rest, text, where) if rest else _parse(text, Any, where)
        return {**node, key: changed}
    if not dataclasses.is_dataclass(node) or isinstance(node, type):
        raise ConfigError("--set", where, f"{key!r} must be a field; its parent has none")
    fields = {field.name: field for field in dataclasses.fields(node)}
    if key not in fields:
        raise ConfigError(
            "--set", where, f"{type(node).__name__} has no field {key!r}",
            breaks=nearest(key, fields),
        )  # fmt: skip
    if rest:
        value = _replace(getattr(node, key), rest, text, where)
    else:
        value = _parse(text, typing.get_type_hints(type(node)).get(key, Any), where)
    return dataclasses.replace(node, **{key: value})


def _parse(text: str, hint: Any, where: str) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    value, fits = _fit(value, hint, text)
    require(fits, where, text, f"must be {_describe(hint)}")
    return value


def _fit(value: Any, hint: Any, text: str) -> tuple[Any, bool]:
    """Convert a JSON value to the annotated type; say whether that worked."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value, True
    if origin in (typing.Union, types.UnionType):
        for option in args:
            converted, fits = _fit(value, option, text)
            if fits:
                return converted, True
        return value, False
    if origin is typing.Literal:
        return (value, True) if value in args else (text, text in args)
    if origin is tuple:
        if not isinstance(value, list):
            return value, False
        kinds = [args[0]] * len(value) if args[1:] == (...,) else list(args)
        fitted = [_fit(item, kind, str(item)) for item, kind in zip(value, kinds, strict=False)]
        return tuple(item for item, _ in fitted), len(kinds) == len(value) and all(
            fits for _, fits in fitted
        )
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value), True
    if hint is str:
        return text, True
    if hint is type(None) or hint is None:
        return None, value is None
    if isinstance(hint, type):
        return value, isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    return value, False


def _describe(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def to_dict(value: Any) -> Any:
    """Turn a config into plain JSON values; functions become ``module:qualname``.

    Raises:
        ConfigError: A value has no stable text, such as a lambda or an open file.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_dict(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): to_dict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_dict(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(to_dict(item) for item in value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, PurePath):
        return str(value)
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, type | types.FunctionType):
        return reference(value)
    raise ConfigError(
        "config", type(value).__name__, "must be made of dataclasses, numbers, text and functions"
    )


def reference(function: Callable[..., Any]) -> str:
    """Name an importable function or class as ``module:qualname``.

    Raises:
        ConfigError: It is a lambda or defined inside another function, so that no other
            process could import it.
    """
    require(
        "<" not in function.__qualname__,
        "config",
        function.__qualname__,
        "must be a function of a module, importable by name in another process",
    )
    return f"{function.__module__}:{function.__qualname__}"


def to_json(config: Any) -> str:
    """Print the whole config as sorted JSON: the form that is stored with a run."""
    return json.dumps(to_dict(config), indent=2, sort_keys=True)


def digest(config: Any) -> str:
    """Name a config by content: 16 hexadecimal digits, equal for equal configs."""
    text = json.dumps(to_dict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
