"""What a table's log says of each version: who made it, and what came and went."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from heliostat.data.storage import Storage


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One version of a table, as its log has it."""

    version: int

    at: datetime

    operation: str
    """What made it, as ``append`` or ``merge``; Delta's own word if another program did."""

    run_id: str | None
    """Who wrote it; None if another program did."""

    details: dict[str, Any]
    """What the writer stored with the commit."""

    added: dict[str, tuple[int, int]]
    """Rows and bytes of each file that came, by path; rows are 0 where the log has none."""

    removed: tuple[str, ...]
    """Files that went; older versions still hold them."""

    schema: str | None
    """The columns as Delta writes them, if this version set them."""

    @property
    def rows_added(self) -> int:
        """Rows in the files that came."""
        return sum(rows for rows, _ in self.added.values())


def read(storage: Storage, version: int) -> Entry | None:
    """Read one version's entry; None if there is no such version or its entry was cleaned up."""
    content = storage.read(f"_delta_log/{version:020d}.json")
    if content is None:
        return None
    info: dict[str, Any] = {}
    added: dict[str, tuple[int, int]] = {}
    removed = []
    schema = None
    for line in content.decode("utf-8").splitlines():
        action = json.loads(line)
        if "add" in action:
            file = action["add"]
            stats = json.loads(file.get("stats") or "{}")
            added[file["path"]] = (int(stats.get("numRecords", 0)), int(file["size"]))
        elif "remove" in action:
            removed.append(action["remove"]["path"])
        elif "metaData" in action:
            schema = action["metaData"]["schemaString"]
        elif "commitInfo" in action:
            info = action["commitInfo"]
    details = json.loads(info.get("heliostat", "{}"))
    run_id = details.pop("run", None)
    operation = details.pop("operation", None) or str(info.get("operation", "unknown")).lower()
    return Entry(
        version=version,
        at=datetime.fromtimestamp(info.get("timestamp", 0) / 1000, UTC),
        operation=operation,
        run_id=run_id,
        details=details,
        added=added,
        removed=tuple(removed),
        schema=schema,
    )


def newest_first(storage: Storage, version: int) -> Iterator[Entry]:
    """Read entries from a version down, until the first or until one that was cleaned up.

    `DeltaTable.history` counts versions down from its own snapshot over the log as it is by
    then, so that they are wrong while others commit. The log's files say it exactly.
    """
    for number in range(version, -1, -1):
        entry = read(storage, number)
        if entry is None:
            return
        yield entry
