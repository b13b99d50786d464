"""What `up` started, in ``<home>/stack.json``: written before and after each start."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heliostat.config import to_dict
from heliostat.stack.processes import Identity
from heliostat.stack.settings import Ports, StackSettings

NAME = "stack.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class StackRecord:
    """One platform: its settings, its variables and the processes that lead its sessions."""

    settings: StackSettings
    repository: str
    temp_dir: str
    auth: Mapping[str, str]
    clients: Mapping[str, str]
    is_complete: bool = False
    """Whether `up` reached its end; if not, it was cut short or is still at work."""
    parts: Mapping[str, Identity | None] = field(default_factory=dict)
    """By name of the part; None from just before its start until just after."""

    @property
    def leaders(self) -> list[Identity]:
        """The processes that were started."""
        return [identity for identity in self.parts.values() if identity]


def write(home: Path, record: StackRecord) -> None:
    """Replace the record in one step."""
    path = home / NAME
    temporary = path.with_name(f"{NAME}.{os.getpid()}")
    temporary.write_text(json.dumps(to_dict(record), indent=2) + "\n")
    temporary.replace(path)


def read(home: Path) -> StackRecord | None:
    """Read the record; None when nothing was started, or when it cannot be understood.

    A record that cannot be understood is no reason to stop: processes are also found by
    the mark in their environment.
    """
    try:
        raw: dict[str, Any] = json.loads((home / NAME).read_text())
        settings = raw.pop("settings")
        parts = {name: item and Identity(**item) for name, item in raw.pop("parts").items()}
        ports = Ports(**settings.pop("ports"))
        return StackRecord(**raw, parts=parts, settings=StackSettings(**settings, ports=ports))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def with_part(record: StackRecord, name: str, identity: Identity | None) -> StackRecord:
    """Return the record with one part added or filled in."""
    return dataclasses.replace(record, parts={**record.parts, name: identity})


def remove(home: Path) -> None:
    """Forget the platform."""
    (home / NAME).unlink(missing_ok=True)
