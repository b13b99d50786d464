"""What feature views there are: every version that was ever defined here, in plain words.

Feast's registry has the newest definitions only, and costs ten seconds to import. This is one
small file per project beside it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.config import require
from heliostat.errors import ConfigError, nearest
from heliostat.features.definitions import (
    EVENT_TIMESTAMP,
    FeatureService,
    FeatureView,
    OnDemandView,
)

if TYPE_CHECKING:
    from heliostat.data.tables import Catalog

FILE = "definitions.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureEntry:
    """One feature of a view."""

    name: str
    dtype: str
    description: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewEntry:
    """One version of a view, as a person looks for it and as a reader needs it."""

    project: str
    name: str

    version: str
    """Digest of the definition."""

    keys: tuple[str, ...]
    columns: tuple[FeatureEntry, ...]
    inputs: tuple[str, ...]
    ttl_s: float | None
    owner: str
    description: str

    tables: str
    """Folder of the project's tables, where the view's own is ``features/<name>``."""

    services: tuple[str, ...]
    """Services that read this version now; empty for one that was replaced."""

    first_seen: str

    source: str | None = None
    """Text of the function, of features that are computed on demand; None for a stored view."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features."""
        return tuple(item.name for item in self.columns)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Their types."""
        return tuple(item.dtype for item in self.columns)

    @property
    def table(self) -> str:
        """Name of its table in the catalog."""
        return f"features/{self.name}"

    def mentions(self, word: str) -> bool:
        """Whether a word stands anywhere in its names, descriptions, keys, inputs or owner."""
        texts = [
            self.name, self.owner, self.description, self.project, *self.keys, *self.inputs,
            *self.services,
            *(text for item in self.columns for text in (item.name, item.description)),
        ]  # fmt: skip
        return any(word.lower() in text.lower() for text in texts)


def record(service: FeatureService, folder: Path, *, tables: str, now: datetime) -> bool:
    """Remember the service's definitions as those that count from now on.

    Args:
        service: What is defined.
        folder: Of the project; made if absent.
        tables: Folder of its tables.
        now: For versions that are seen for the first time.

    Returns:
        Whether anything was new.
    """
    content = _load(folder)
    before = json.dumps(content, sort_keys=True)
    content["services"][service.name] = {
        "digest": service.digest(),
        "views": {view.name: view.digest() for view in service.everything},
    }
    for view in service.everything:
        known = content["views"].setdefault(view.name, {})
        plain = {
            "columns": [asdict(item) for item in view.features],
            "owner": view.owner,
            "description": view.description,
            "tables": tables,
            **_own(view),
        }
        seen = known.get(view.digest(), {}).get("first_seen", now.isoformat())
        known[view.digest()] = {**plain, "first_seen": seen}
    if json.dumps(content, sort_keys=True) == before:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{FILE}.{os.getpid()}"
    temporary.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    temporary.replace(folder / FILE)
    return True


def _own(view: FeatureView | OnDemandView) -> dict[str, Any]:
    if isinstance(view, FeatureView):
        return {"keys": view.keys, "inputs": view.inputs, "ttl_s": view.ttl_s, "source": None}
    inputs = (*view.inputs, *(item.name for item in view.requested))
    return {"keys": (), "inputs": inputs, "ttl_s": None, "source": view.source}


def views(root: Path) -> list[ViewEntry]:
    """Every version of every view of the projects below a folder, by project and name.

    Of one view those that a service reads now come first, then the others, the newest first.
    """
    found = []
    for path in sorted(root.glob(f"*/{FILE}")):
        content = _load(path.parent)
        for name, versions in sorted(content["views"].items()):
            entries = [
                _entry(path.parent.name, name, version, raw, content["services"])
                for version, raw in versions.items()
            ]
            entries.sort(key=lambda item: item.first_seen, reverse=True)
            found += sorted(entries, key=lambda item: not item.services)
    return found


def services(root: Path) -> dict[str, tuple[str, tuple[ViewEntry, ...]]]:
    """Digest and stored views of every service that is defined now.

    Returns:
        By name, as ``project/service``.
    """
    by_version = {(item.project, item.name, item.version): item for item in views(root)}
    found = {}
    for path in sorted(root.glob(f"*/{FILE}")):
        project = path.parent.name
        for name, service in sorted(_load(path.parent)["services"].items()):
            entries = tuple(
                by_version[project, view, version] for view, version in service["views"].items()
                if by_version[project, view, version].source is None
            )  # fmt: skip
            found[f"{project}/{name}"] = (str(service["digest"]), entries)
    return found


def find(entries: Sequence[ViewEntry], name: str) -> list[ViewEntry]:
    """All versions of one view; ``project/name`` where several projects have one of the name.

    Raises:
        ConfigError: There is none, or it is in several projects.
    """
    project, _, view = name.rpartition("/")
    found = [item for item in entries if item.name == view and project in {"", item.project}]
    names = {item.name for item in entries}
    if not found:
        raise ConfigError("view", name, "must be defined", breaks=nearest(name, names))
    projects = sorted({item.project for item in found})
    require(len(projects) == 1, "view", name, f"must name its project, one of {projects}")
    return found


def newest_event(catalog: Catalog, table: str) -> datetime | None:
    """The latest event in a view's table; None where it was never built or is empty."""
    import polars as pl

    if catalog.version(table) is None:
        return None
    files = [str(path) for path in catalog.files(table)]
    if not files:
        return None
    found: datetime | None = (
        pl.scan_parquet(files).select(pl.col(EVENT_TIMESTAMP).max()).collect().item()
    )
    return found


def _load(folder: Path) -> dict[str, Any]:
    path = folder / FILE
    if not path.exists():
        return {"services": {}, "views": {}}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _entry(
    project: str, name: str, version: str, raw: Mapping[str, Any], known: Mapping[str, Any]
) -> ViewEntry:
    return ViewEntry(
        project=project,
        name=name,
        version=version,
        keys=tuple(raw["keys"]),
        columns=tuple(FeatureEntry(**item) for item in raw["columns"]),
        inputs=tuple(raw["inputs"]),
        ttl_s=raw["ttl_s"],
        owner=raw["owner"],
        description=raw["description"],
        tables=raw["tables"],
        services=tuple(
            sorted(key for key, item in known.items() if item["views"].get(name) == version)
        ),
        first_seen=raw["first_seen"],
        source=raw["source"],
    )
