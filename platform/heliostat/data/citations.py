"""Who needs which version of a table: kept beside it, where every vacuum sees it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from heliostat.config import digest, require

if TYPE_CHECKING:
    from heliostat.data.tables import Catalog

FOLDER = "_heliostat/citations"
"""Delta's readers skip names that begin with an underscore, and so does its own vacuum."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Citation:
    """A version of a table that must stay readable, and for whom."""

    version: int

    by: str
    """As ``model churn@3``."""

    at: str
    """When it was cited, ISO 8601."""


def cite(catalog: Catalog, name: str, version: int, *, by: str, now: datetime) -> None:
    """Keep a version until `release`; safe to repeat.

    Raises:
        ConfigError: There is no such version any more, or `by` is empty.
    """
    require(bool(by), "citation.by", by, "must say who needs the version")
    catalog.schema(name, version)
    citation = {"version": version, "by": by, "at": now.isoformat()}
    catalog._folder(name).write(_path(version, by), json.dumps(citation).encode())


def release(catalog: Catalog, name: str, version: int, *, by: str) -> None:
    """Say that nobody of this name needs the version; nothing happens if it was not cited."""
    catalog._folder(name).delete(_path(version, by))


def citations(catalog: Catalog, name: str) -> list[Citation]:
    """Everyone who needs a version of the table, by version."""
    folder = catalog._folder(name)
    found = []
    for item in folder.list(FOLDER):
        content = folder.read(item.path)
        if content is not None and item.path.endswith(".json"):
            found.append(Citation(**json.loads(content)))
    return sorted(found, key=lambda item: (item.version, item.by))


def _path(version: int, by: str) -> str:
    return f"{FOLDER}/{version:020d}-{digest({'by': by})}.json"
