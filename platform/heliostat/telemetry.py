"""Structured log events: one name, some fields, one line; readable text on a terminal.

``telemetry.event("rollout.advanced", model="churn", step=2)`` writes JSON to standard
error, or ``rollout.advanced model=churn step=2`` when that is a terminal.
"""

from __future__ import annotations

import functools
import json as jsonlib
import sys
from collections.abc import Callable
from typing import Any

Progress = Callable[[int, int | None, str], None]
"""What a long step calls as it goes: done, total (None when unknown), the unit counted."""

_SERVICE = "heliostat"
_JSON: bool | None = None


def configure(service: str, *, json: bool | None = None) -> None:
    """Name this process in its events; call once where a process begins.

    Args:
        service: Short name of the process, such as ``gateway``; a field of each event.
        json: Whether to write JSON; by default JSON unless standard error is a terminal.
    """
    global _SERVICE, _JSON  # one setting per process, set where it begins
    _SERVICE, _JSON = service, json
    _logger.cache_clear()


def event(name: str, **fields: Any) -> None:
    """Write one event to standard error; works unconfigured and never raises for a value.

    Args:
        name: ``noun.verb`` in the past tense, such as ``rollout.advanced``.
        fields: Values; what JSON cannot carry is written as text. Never pass a secret.
    """
    _logger().info(name, **fields)


@functools.cache
def _logger() -> Any:
    import structlog

    as_json = not sys.stderr.isatty() if _JSON is None else _JSON
    last: Any = (
        structlog.processors.JSONRenderer(serializer=functools.partial(jsonlib.dumps, default=str))
        if as_json
        else _human_line
    )
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
    return structlog.wrap_logger(
        structlog.WriteLogger(sys.stderr),
        processors=[_add_service, *([stamp] if as_json else []), last],
        wrapper_class=structlog.BoundLogger,
    )


def _add_service(_logger: Any, _method: str, fields: Any) -> dict[str, Any]:
    return {"event": fields.pop("event"), "service": _SERVICE, **fields}


def _human_line(_logger: Any, _method: str, fields: Any) -> str:
    """Write ``name key=value key="two words"``.

    >>> _human_line(None, "info", {"event": "a.b", "service": "s", "n": 2, "why": "two words"})
    'a.b n=2 why="two words"'
    """
    parts = [str(fields["event"])]
    for key, value in fields.items():
        if key not in ("event", "service"):
            text = str(value)
            parts.append(f"{key}={jsonlib.dumps(text) if ' ' in text else text}")
    return " ".join(parts)
