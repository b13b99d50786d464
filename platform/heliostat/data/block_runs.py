"""Check all chunks of a source on Ray Data, and go on where a killed try of the run has ended."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat import telemetry
from heliostat.config import digest
from heliostat.data import block_records
from heliostat.data.block_records import Block
from heliostat.data.blocks import (
    RECORDS,
    SPOOL,
    Work,
    check_chunk,
    check_chunk_again,
    check_place,
    later_duplicates,
    unpack,
)
from heliostat.data.rows import Source
from heliostat.errors import Unavailable

if TYPE_CHECKING:
    import pyarrow as pa
    import ray.data

Progress = Callable[[int, int | None, str], None]


def stamps(source: Source) -> dict[str, int | None]:
    """When each file of a source was changed last; nothing for a server's rows."""
    return {path: _changed_at(path) for path in source.paths} if source.repeatable else {}


def require_unchanged(source: Source, before: Mapping[str, int | None]) -> None:
    """Refuse what was read if a file is another by now: some chunks may be of the old one.

    Raises:
        Unavailable: Names the first such file.
    """
    after = stamps(source)
    changed = sorted(path for path in {**before, **after} if before.get(path) != after.get(path))
    if changed:
        raise Unavailable(
            changed[0], "changed while it was read",
            next_step="Repeat the ingest when it stays as it is: nothing was committed",
        )  # fmt: skip


def begun(work: Work) -> Work:
    """Note what this run is about to do, or find that a killed try of it has done the same.

    A try goes on with the blocks of the one before only if source, files and contract are as
    they were; it then judges with that one's time, so that all rows meet the same rule.
    """
    if not work.source.repeatable:
        return work
    folder = work.catalog.storage(work.contract.table)
    name = f"{RECORDS}/work.{work.run_id}"
    same = digest(
        {
            "source": work.source,
            "plan": work.members,
            "files": list(stamps(work.source).values()),
            "contract": work.contract.digest(),
        }
    )
    noted = json.loads(folder.read(name) or b"{}")
    if noted.get("same") == same:
        return replace(work, now=datetime.fromisoformat(noted["now"]))
    clean(work)
    note = json.dumps({"same": same, "now": work.now.isoformat()})
    folder.write(name, note.encode())
    return work


def clean(work: Work) -> None:
    """Remove what tries of this run have left for a next one."""
    folder = work.catalog.storage(work.contract.table)
    for item in (*folder.list(RECORDS), *folder.list(SPOOL)):
        if _of_run(item.path, work.run_id):
            folder.delete(item.path)


def blocks(work: Work, *, progress: Progress | None) -> list[Block]:
    """Check every chunk once, whatever tries of the run it takes; blocks come in order."""
    found = _finished(work)
    if found:
        telemetry.event("ingest.resumed", run=work.run_id, chunks=len(found))
    if all(work.source.one_chunk_each(member) for member in work.members):
        waiting = [place for place in _places(work) if place not in found]
        results = _each(waiting, partial(check_place, work=work))
    else:
        from heliostat.data import chunk_source

        # A reader of many chunks reads all of them again, and the work on them is done anew.
        found = {}
        results = chunk_source.dataset(work.source, work.members).map_batches(
            partial(check_chunk, work=work), batch_size=1, batch_format="pyarrow"
        )
    told = _Told(work, progress, list(found.values()))
    for block in _answers(results):
        found[block.place] = block
        told.block(block)
    return [found[place] for place in sorted(found)]


def without_duplicates(blocks: list[Block], work: Work) -> list[Block]:
    """Do those blocks again, without them, that hold a later row of an equal key."""
    later = later_duplicates(blocks)
    if not later:
        return blocks
    results = _each(
        [(file, number, lines) for (file, number), lines in later.items()],
        partial(check_chunk_again, work=work),
    )
    again = {block.place: block for block in _answers(results)}
    return [again.get(block.place, block) for block in blocks]


def pace(rows: int, elapsed_s: float, done_ratio: float | None) -> str:
    """Say how quick the reading is, and how long it will take where that can be told.

    Args:
        rows: Read by this try.
        elapsed_s: Since it began.
        done_ratio: Share of this try's work that is done; None where nobody knows.

    >>> pace(1_000_000, 2.0, 0.25)
    'rows, 500,000 rows/s, 6 s left'
    >>> pace(1_000_000, 2.0, None)
    'rows, 500,000 rows/s'
    """
    said = f"rows, {rows / max(elapsed_s, 0.001):,.0f} rows/s"
    if done_ratio:
        said += f", {elapsed_s * (1 / min(done_ratio, 1.0) - 1):.0f} s left"
    return said


class _Told:
    """Tells a `Progress` of each block as it comes, with the time left by bytes or by chunks."""

    def __init__(self, work: Work, progress: Progress | None, before: list[Block]) -> None:
        self._progress = progress
        self._rows_before = sum(block.num_rows for block in before)
        one_each = all(work.source.one_chunk_each(member) for member in work.members)
        # Sizes of archives and plain files are known, those of queries are not.
        self._total = (
            len(_places(work)) - len(before) if one_each
            else sum(member.size_bytes for member in work.members)
        )  # fmt: skip
        self._by_chunk = one_each
        self._done = 0
        self._rows = 0
        self._began = time.monotonic()

    def block(self, block: Block) -> None:
        self._rows += block.num_rows
        self._done += 1 if self._by_chunk else block.num_bytes
        if self._progress is None:
            return
        ratio = self._done / self._total if self._total else None
        elapsed_s = time.monotonic() - self._began
        self._progress(self._rows_before + self._rows, None, pace(self._rows, elapsed_s, ratio))


def _each(
    places: Sequence[tuple[Any, ...]], check: Callable[[pa.Table], pa.Table]
) -> ray.data.Dataset | None:
    """Run a task for each place: it reads and checks, so that no chunk is handed over."""
    import ray.data

    if not places:
        return None
    opened = ray.data.from_arrow([_place(*place) for place in places])
    return opened.map_batches(check, batch_size=None, batch_format="pyarrow")


def _answers(results: ray.data.Dataset | None) -> Iterator[Block]:
    if results is None:
        return
    for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
        yield from unpack(batch)


def _places(work: Work) -> list[tuple[int, int]]:
    return [
        (file, number)
        for file, member in enumerate(work.members)
        for number in work.source.readers(member)
    ]


def _place(file: int, number: int, lines: list[int] | None = None) -> pa.Table:
    import pyarrow as pa

    return pa.table(
        {
            "file": pa.array([file], pa.int64()),
            "number": pa.array([number], pa.int64()),
            "lines": pa.array([lines or []], pa.list_(pa.int64())),
        }
    )


def _finished(work: Work) -> dict[tuple[int, int], Block]:
    """Blocks that a killed try has left whole, with their files."""
    if not work.source.repeatable:
        return {}
    folder = work.catalog.storage(work.contract.table)
    found = {}
    for item in folder.list(RECORDS):
        if not _of_run(item.path, work.run_id) or item.path.endswith(f"/work.{work.run_id}"):
            continue
        block = block_records.unpack(folder.read(item.path) or b"")
        if block is not None and all(_is_there(folder, file) for file in block.staged):
            found[block.place] = block
    return found


def _is_there(folder: Any, file: Any) -> bool:
    stored = folder.stat(file.path)
    return stored is not None and stored.size_bytes == file.size_bytes


def _of_run(path: str, run_id: str) -> bool:
    """Say whether a record is a block, or the note, of exactly this run.

    >>> [_of_run(f"r/{name}", "a.b") for name in ("0-12.a.b", "work.a.b", "0-12.x.a.b")]
    [True, True, False]
    """
    return bool(re.fullmatch(rf"(\d+-\d+|work)\.{re.escape(run_id)}", path.rpartition("/")[2]))


def _changed_at(path: str) -> int | None:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError:
        return None
