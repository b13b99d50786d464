"""Pure: what was brought to an online store up to when, as the store itself remembers it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from heliostat.config import require


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """One finished materialization of a service."""

    service: str

    digest: str
    """Of all definitions of the service."""

    start: datetime | None
    """Exclusive; None means from the beginning."""

    end: datetime
    """Inclusive."""

    at: datetime
    """When it was done."""

    rows: Mapping[str, int]
    """Entities written, by view."""

    versions: Mapping[str, int]
    """Version of each view's table, by view."""

    below: str | None = None
    """Folder of the views' tables below the catalog; None where they lie in the catalog itself."""

    def __post_init__(self) -> None:
        for name in ("start", "end", "at"):
            moment = getattr(self, name)
            require(
                moment is None or moment.tzinfo is not None, f"interval.{name}", moment,
                "must have a time zone",
            )  # fmt: skip

    def to_line(self) -> str:
        """Write it as the store keeps it."""
        content = {
            "service": self.service,
            "digest": self.digest,
            "start": None if self.start is None else self.start.isoformat(),
            "end": self.end.isoformat(),
            "at": self.at.isoformat(),
            "rows": dict(self.rows),
            "versions": dict(self.versions),
        }
        if self.below is not None:
            content["below"] = self.below
        return json.dumps(content, sort_keys=True)

    @staticmethod
    def from_line(line: str) -> Interval:
        """Read what `to_line` wrote."""
        raw = json.loads(line)
        moments = {
            name: None if raw[name] is None else datetime.fromisoformat(raw[name])
            for name in ("start", "end", "at")
        }
        return Interval(**{**raw, **moments})


def of(lines: Iterable[str], service: str, digest: str | None = None) -> list[Interval]:
    """Those of a service, oldest first; with `digest`, of these very definitions only."""
    found = (Interval.from_line(line) for line in lines)
    return [
        item for item in found
        if item.service == service and (digest is None or item.digest == digest)
    ]  # fmt: skip


def without(lines: Iterable[str], views: Iterable[str]) -> list[str]:
    """The lines that say nothing of these views, in their order."""
    cleared = set(views)
    return [line for line in lines if not cleared & set(Interval.from_line(line).versions)]
