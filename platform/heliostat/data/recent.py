"""Open the newest version of a table of many versions without a look at the names of all."""

from __future__ import annotations

import json
import os
import tempfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from heliostat.data.checkpoints import HINT, LOG
from heliostat.data.storage import LocalFolder, Storage

if TYPE_CHECKING:
    from deltalake import DeltaTable

MANY = 500
"""Names in a log; a listing of fewer takes no longer than what is done here in its place."""

_MOST_COMMITS = 200
"""deltalake writes a checkpoint each 100 commits; a log that is far beyond its last one is read
the usual way."""


def open_newest(folder: Storage, *, many: int = MANY) -> DeltaTable | None:
    """Open a local table to read its columns and files; None where it must be opened as usual.

    To find what follows the last checkpoint, deltalake takes the name of each file of the log: an
    object store leaves the older ones out, a local disk does not, and after some thousand versions
    that is most of the time. Commits are numbered, so that the next one can be asked for by its
    name. deltalake then reads a folder of links to just these files. They are gone when this
    returns: what the table is asked must be in memory, as its version, columns and files are.

    Args:
        folder: The table's.
        many: With fewer names in its log a table is opened as usual.
    """
    if not isinstance(folder, LocalFolder):
        return None
    hint = folder.read(HINT) or b""
    version = _checkpointed(hint)
    if version is None or not _has_names(folder.folder / LOG, many):
        return None
    checkpoint = f"{version:020d}.checkpoint.parquet"
    commits = _since(folder, version)
    if len(commits) > _MOST_COMMITS:
        return None
    table = _opened(folder, hint, [checkpoint, *commits])
    # Whoever cleans the log up takes the checkpoint before the commits that follow it: while it is
    # there, no commit was missed.
    if folder.read(HINT) != hint or folder.stat(f"{LOG}/{checkpoint}") is None:
        return None
    return table


def _has_names(log: Path, number: int) -> bool:
    with os.scandir(log) as names:
        return sum(1 for _ in islice(names, number)) == number


def _checkpointed(hint: bytes) -> int | None:
    """Version of a checkpoint that is one file; None where there is none."""
    try:
        found = json.loads(hint or b"{}")
    except ValueError:
        return None
    version = found.get("version")
    return version if isinstance(version, int) and not found.get("parts") else None


def _since(folder: LocalFolder, version: int) -> list[str]:
    """Names of the commits from a version on that are there without a gap."""
    log = folder.folder / LOG
    found = [f"{version:020d}.json"] if (log / f"{version:020d}.json").exists() else []
    number = version + 1
    while len(found) <= _MOST_COMMITS and (log / f"{number:020d}.json").exists():
        found.append(f"{number:020d}.json")
        number += 1
    return found


def _opened(folder: LocalFolder, hint: bytes, names: list[str]) -> DeltaTable | None:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

    log = (folder.folder / LOG).absolute()
    with tempfile.TemporaryDirectory(prefix="heliostat-open-") as place:
        linked = Path(place) / LOG
        linked.mkdir()
        for name in names:
            (linked / name).symlink_to(log / name)
        (linked / "_last_checkpoint").write_bytes(hint)
        try:
            return DeltaTable(place)
        except (DeltaError, OSError):
            return None
