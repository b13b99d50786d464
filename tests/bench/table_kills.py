"""Kill writers of a table at random moments and look at what every reader sees."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from heliostat.data.tables import Catalog
from tests.bench import table_writer

WRITER = Path(table_writer.__file__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kills:
    """What a number of kills did; every count of faults must be 0."""

    operation: str
    rounds: int
    killed_before_commit: int
    killed_after_commit: int
    ended_before_kill: int
    torn_reads: int
    """Reads that gave neither the whole old nor the whole new version."""
    reads: int
    files_left: int
    """Files in the folder that no version names, after the next run has ended."""
    wrong_after_retry: int


def kill_rounds(operation: str, rounds: int, seed: int, environment: dict[str, str]) -> Kills:
    """Kill the writer `rounds` times, each on a table of its own, then let its next run end.

    Moments are uniform over the time that an unharmed run takes from its start to its end.
    """
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        span_s = _unharmed(operation, Path(name), environment)
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            _round(operation, Path(name), rng.uniform(0, span_s), f"k{number}", environment, counts)
    return Kills(
        operation=operation,
        rounds=rounds,
        **{
            field: counts[field]
            for field in Kills.__slots__
            if field not in {"operation", "rounds"}
        },
    )


def _prepared(folder: Path) -> Catalog:
    catalog = Catalog(folder / "tables")
    table_writer.base(catalog)
    table_writer.source(folder)
    return catalog


def _started(operation: str, folder: Path, run_id: str, environment: dict[str, str]):
    child = subprocess.Popen(
        [sys.executable, str(WRITER), operation, str(folder), run_id],
        env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def _unharmed(operation: str, folder: Path, environment: dict[str, str]) -> float:
    _prepared(folder)
    child = _started(operation, folder, "unharmed", environment)
    began = time.monotonic()
    assert child.wait(300) == 0
    return time.monotonic() - began


def _round(
    operation: str,
    folder: Path,
    after_s: float,
    run_id: str,
    environment: dict[str, str],
    counts: Counter[str],
) -> None:
    catalog = _prepared(folder)
    old = _content(catalog)
    child = _started(operation, folder, run_id, environment)
    until = time.monotonic() + after_s
    while time.monotonic() < until:
        counts["reads"] += 1
        counts["torn_reads"] += _content(catalog) not in (old, expected(operation))
    os.killpg(child.pid, signal.SIGKILL)
    ended = child.wait() == 0
    committed = catalog.commit_of(table_writer.TABLE, run_id) is not None
    counts[
        "ended_before_kill" if ended else f"killed_{'after' if committed else 'before'}_commit"
    ] += 1
    counts["reads"] += 1
    counts["torn_reads"] += _content(catalog) != (expected(operation) if committed else old)
    again = _started(operation, folder, run_id, environment)
    assert again.wait(300) == 0
    counts["wrong_after_retry"] += (
        _content(catalog) != expected(operation)
        or catalog.version(table_writer.TABLE) != table_writer.NUM_FILES
    )
    counts["files_left"] += len(orphans(catalog))


def _content(catalog: Catalog) -> tuple[int, int, int]:
    """Rows, sum of ids and sum of values: no mix of two versions has those of either."""
    found = catalog.read(table_writer.TABLE)
    return found.height, int(found["id"].sum()), int(found["value"].sum())


def expected(operation: str) -> tuple[int, int, int]:
    """What the table holds once the operation is committed."""
    number = table_writer.NUM_FILES * table_writer.ROWS_PER_FILE
    ids = number * (number - 1) // 2
    if operation == "optimize":
        return number, ids, 0
    if operation == "ingest":
        return number, ids, 2 * number
    new = [number + step for step in range(0, 10, 2)]
    return number + len(new), ids + sum(new), number // 2 + len(new)


def orphans(catalog: Catalog) -> list[str]:
    """Files in the table's folder, hidden ones too, that no version names."""
    named = {path for entry in catalog.history(table_writer.TABLE) for path in entry.added}
    folder = Path(catalog.root) / table_writer.TABLE
    return sorted(
        path.name for path in folder.iterdir() if path.is_file() and path.name not in named
    )


def as_json(kills: Kills) -> dict[str, object]:
    """Plain values for a results file."""
    return asdict(kills)
