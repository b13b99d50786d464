"""Versions of a contract: what changed between two of them, and whether rows may be lost by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heliostat import config
from heliostat.data.contract import Contract

FIRST = 1
"""Number of a table's first contract."""


def stored(contract: Contract, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Describe a contract as a commit keeps it: equal rules keep their version, others get the next.

    Args:
        contract: The one that rows were checked by.
        before: What the table's last ingest kept; None at the first.

    Returns:
        ``version``, ``digest``, ``changes`` against the one before, and the ``text`` itself.
    """
    text = config.to_dict(contract)
    if before is None or "text" not in before:
        return {"version": FIRST, "digest": contract.digest(), "changes": [], "text": text}
    found = changes(before["text"], text)
    return {
        "version": before["version"] + bool(found),
        "digest": contract.digest(),
        "changes": found or before.get("changes", []),
        "text": text,
    }


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Say in words what differs between two contracts as plain values; descriptions do not count.

    >>> old = {"columns": [{"name": "id", "minimum": 1}], "keys": ["id"]}
    >>> new = {"columns": [{"name": "id", "minimum": 0}, {"name": "x"}], "keys": []}
    >>> changes(old, new)
    ['column id.minimum: 1 is 0', 'column x: added', "keys: ['id'] is []"]
    """
    found = []
    for kind, word in (("columns", "column"), ("rules", "rule")):
        before = {item["name"]: item for item in old.get(kind) or ()}
        after = {item["name"]: item for item in new.get(kind) or ()}
        for name in dict.fromkeys((*before, *after)):
            if name not in after:
                found.append(f"{word} {name}: removed")
            elif name not in before:
                found.append(f"{word} {name}: added")
            else:
                found += _fields(f"{word} {name}.", before[name], after[name])
    found += _fields("", _plain(old), _plain(new))
    return found


def _plain(contract: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in contract.items() if key not in {"columns", "rules"}}


def _fields(where: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [
        f"{where}{key}: {_said(old.get(key))} is {_said(new.get(key))}"
        for key in dict.fromkeys((*old, *new))
        if key != "description" and old.get(key) != new.get(key)
    ]


def _said(value: object) -> str:
    return str(value)
