"""The rules that a CRD writes in CEL, evaluated as the API server does when an object is created."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from heliostat.clusters.structural import Fault

_RESERVED = ("namespace", "function", "package", "import", "const", "loop", "void", "var", "let")
"""Names of fields that Kubernetes writes ``__namespace__`` in rules."""


def is_available() -> bool:
    """Say whether the evaluator is installed (extra ``cel``)."""
    try:
        import cel  # noqa: F401
    except ImportError:
        return False
    return True


def faults(schema: Mapping[str, Any], value: Any, path: str = "") -> Iterator[Fault]:
    """Evaluate every rule of a schema on a value that fits it, defaults filled in.

    Rules about changes (``oldSelf``) are for updates and are left out, as on creation. A rule that
    the evaluator does not understand is a fault that says so.
    """
    if value is None:
        return
    for item in schema.get("x-kubernetes-validations", ()):
        rule = str(item.get("rule", ""))
        if "oldSelf" in rule:
            continue
        problem = _problem(rule, value)
        if problem is not None:
            message = " ".join(str(item.get("message") or rule).split())
            yield Fault(path=path, value=value, rule=message[:200], breaks=problem or None)
    if isinstance(value, Mapping):
        known = schema.get("properties", {})
        more = schema.get("additionalProperties")
        for key, inner in value.items():
            found = known.get(key, more if isinstance(more, Mapping) else None)
            if isinstance(found, Mapping):
                yield from faults(found, inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for index, inner in enumerate(value):
            yield from faults(schema["items"], inner, f"{path}[{index}]")


def _problem(rule: str, value: Any) -> str | None:
    """None where the rule holds; an empty text where it does not; else why it could not be told."""
    import cel

    context = cel.Context(
        variables={"self": _without_nulls(value)}, functions={"find": _find, "isURL": _is_url}
    )
    try:
        found = _program(rule).execute(context)
    except Exception as error:  # noqa: BLE001 - the evaluator raises many kinds
        return f"the rule could not be evaluated: {' '.join(str(error).split())[:150]}"
    return None if found is True else ""


@lru_cache(maxsize=1024)
def _program(rule: str) -> Any:
    import cel

    for name in _RESERVED:
        rule = rule.replace(f".__{name}__", f".{name}")
    return cel.compile(rule)


def _without_nulls(value: Any) -> Any:
    """A null field counts as absent, also for ``has()``."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _find(text: str, pattern: str) -> str:
    match = re.search(pattern, text)
    return match[0] if match else ""


def _is_url(text: str) -> bool:
    return bool(re.match(r"^[a-zA-Z][a-zA-Z0-9+.-]*://[^/\s]+", text))
