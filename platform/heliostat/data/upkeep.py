"""Keep a table quick and small: fewer files, and none that no kept version needs."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import unquote

from heliostat.config import require
from heliostat.data import checkpoints, log, reading
from heliostat.data.citations import Citation, citations
from heliostat.data.commits import Change
from heliostat.data.merge import InProcess, Tasks
from heliostat.data.reading import ActiveFile
from heliostat.data.staging import StagedFile
from heliostat.data.storage import Stored
from heliostat.data.tables import Catalog

if TYPE_CHECKING:
    from deltalake import DeltaTable

TARGET_BYTES = 128 * 2**20
"""Size of a file that `optimize` aims at."""

_LOG = re.compile(r"^_delta_log/(\d{20})\.(?:json|checkpoint\b.*)$")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizeReport:
    """How many files a version has, before and after."""

    table: str
    version: int
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Sweep:
    """What a vacuum takes away, or would."""

    table: str
    files: tuple[str, ...]
    """Paths below the table's folder, the log's of versions that are gone included."""
    num_bytes: int
    oldest_version: int
    """Oldest version of those within retention; older ones stay only where cited."""
    cited: tuple[Citation, ...]
    """What keeps older versions."""


def bins(files: Sequence[ActiveFile], target_bytes: int) -> list[list[ActiveFile]]:
    """Put files of one partition together, in order, up to a size; lone files are left out.

    >>> file = ActiveFile(path="a", num_rows=1, size_bytes=4, partition=())
    >>> [len(group) for group in bins([file] * 5, 8)]
    [2, 2]
    """
    groups: list[list[ActiveFile]] = []
    open_groups: dict[tuple[tuple[str, str | None], ...], tuple[list[ActiveFile], int]] = {}
    for file in files:
        if file.size_bytes >= target_bytes:
            continue
        group, num_bytes = open_groups.get(file.partition, ([], 0))
        if not group or num_bytes + file.size_bytes > target_bytes:
            group, num_bytes = [], 0
            groups.append(group)
        group.append(file)
        open_groups[file.partition] = group, num_bytes + file.size_bytes
    return [group for group in groups if len(group) > 1]


def optimize(
    catalog: Catalog,
    name: str,
    *,
    run_id: str,
    target_bytes: int = TARGET_BYTES,
    tasks: Tasks | None = None,
) -> OptimizeReport:
    """Put small files together and write a checkpoint; no row changes, and old versions stay.

    Rows keep their order within each partition's group of files. Exactly once per run; where
    another writer commits in between, it is done anew on what that one left. Nothing is
    committed where nothing can be put together. `vacuum` frees the old files.
    """
    require(target_bytes > 0, "optimize.target_bytes", target_bytes, "must be above 0")
    before = catalog.active(name)
    groups = bins(before, target_bytes)
    version = catalog.version(name)
    assert version is not None
    if groups:

        def plan(table: DeltaTable | None) -> Change:
            assert table is not None
            found = bins(reading.active(table), target_bytes)
            schema = reading.schema(table)

            def together(numbered: tuple[int, list[ActiveFile]]) -> StagedFile:
                return _together(numbered, catalog=catalog, name=name, run_id=run_id, schema=schema)

            return Change(
                add=tuple((tasks or InProcess()).map(together, list(enumerate(found)))),
                remove=tuple(file.staged for group in found for file in group),
                mode="replace",
                columns=table.schema(),
                changes_data=False,
            )

        version = catalog.transact(name, plan, run_id=run_id, operation="optimize")
        catalog.sweep(name, run_id)
    checkpoints.write(catalog._folder(name), catalog._existing(name, None))
    after = catalog.active(name, version)
    return OptimizeReport(
        table=name,
        version=version,
        files_before=len(before),
        files_after=len(after),
        bytes_before=sum(file.size_bytes for file in before),
        bytes_after=sum(file.size_bytes for file in after),
    )


def plan_vacuum(
    catalog: Catalog,
    name: str,
    *,
    now: datetime,
    retention: timedelta,
    orphan_age: timedelta = timedelta(days=1),
) -> Sweep:
    """Find what no kept version needs: pure reading, nothing is removed.

    Kept are the newest version, every version that was the newest at any time within
    `retention`, every cited version, and files that no version names yet but that are younger
    than `orphan_age`, since a commit may be about to name them.

    Args:
        catalog: Where the table lives.
        name: Table.
        now: The time from which is counted; with time zone.
        retention: How far back versions stay readable.
        orphan_age: How old a file without a version must be.
    """
    require(now.tzinfo is not None, "vacuum.now", now, "must have a time zone")
    newest = catalog._existing(name, None).version()
    folder = catalog._folder(name)
    oldest = newest
    needed: set[str] = set()
    for entry in log.newest_first(folder, newest):
        oldest = entry.version
        if entry.at <= now - retention:
            break
        # Whatever came within retention is in some kept version.
        needed.update(unquote(path) for path in entry.added)
    cited = citations(catalog, name)
    kept = {oldest, *(item.version for item in cited if item.version < oldest)}
    for version in sorted(kept):
        needed.update(file.location for file in catalog.active(name, version))
    stored = [*folder.list(), *folder.list("_delta_log")]
    known = _named_by(catalog, name, newest)
    young = now.timestamp() - orphan_age.total_seconds()
    gone = [
        item
        for item in stored
        if not item.path.startswith("_")
        and item.path not in needed
        and (item.path in known or item.modified_s < young)
    ]
    gone += _dead_log(stored, kept)
    return Sweep(
        table=name,
        files=tuple(item.path for item in gone),
        num_bytes=sum(item.size_bytes for item in gone),
        oldest_version=oldest,
        cited=tuple(cited),
    )


def vacuum(catalog: Catalog, sweep: Sweep) -> None:
    """Remove what `plan_vacuum` found; data first, so that a kill leaves nothing unreadable kept.

    Safe to repeat, and beside writers and readers of kept versions. No version is committed.
    """
    folder = catalog._folder(sweep.table)
    for path in sorted(sweep.files, key=lambda path: (path.startswith("_delta_log/"), path)):
        folder.delete(path)


def _together(
    numbered: tuple[int, list[ActiveFile]],
    *,
    catalog: Catalog,
    name: str,
    run_id: str,
    schema: dict[str, object],
) -> StagedFile:
    import polars as pl

    number, group = numbered
    folder = catalog._folder(name)
    rows = pl.concat(reading.read_files(folder, group, schema))
    staged = catalog.stage(name, rows, run_id=run_id, part=number)
    return StagedFile(
        path=staged.path,
        num_rows=staged.num_rows,
        size_bytes=staged.size_bytes,
        partition=group[0].partition,
    )


def _named_by(catalog: Catalog, name: str, newest: int) -> set[str]:
    """Files that some version named: they are no writer's any more, however young."""
    return {
        unquote(path)
        for entry in log.newest_first(catalog._folder(name), newest)
        for path in (*entry.added, *entry.removed)
    }


def _dead_log(stored: Sequence[Stored], kept: Collection[int]) -> list[Stored]:
    """Log entries that no kept version is read from.

    A version is read from the newest checkpoint at or below it and the entries after that one,
    so everything before the checkpoint of the oldest kept version may go.
    """
    entries = [(int(match[1]), item) for item in stored if (match := _LOG.match(item.path))]
    checkpoints = [number for number, item in entries if ".checkpoint" in item.path]
    start = max((number for number in checkpoints if number <= min(kept)), default=None)
    if start is None:
        return []
    return [item for number, item in entries if number < start]
