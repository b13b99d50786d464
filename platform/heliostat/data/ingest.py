"""Bring a source into a table: every row ends in the table or in quarantine with a reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from heliostat.config import require
from heliostat.data import block_runs, contract_changes, contract_report, origins
from heliostat.data.block_records import Block
from heliostat.data.block_runs import Progress
from heliostat.data.blocks import Work
from heliostat.data.contract import Contract
from heliostat.data.profile import Profile, judge, together
from heliostat.data.rows import Member, Source
from heliostat.data.sources import require_columns
from heliostat.data.tables import Catalog, Mode
from heliostat.errors import GateRefused

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestReport:
    """What became of every row: ``rows_read == rows_written + rows_quarantined``."""

    table: str
    version: int
    rows_read: int
    rows_written: int
    rows_quarantined: int
    reasons: dict[str, int]
    """Quarantined rows by the first rule that each breaks; they sum to `rows_quarantined`."""
    quarantine_version: int
    columns_ignored: tuple[str, ...] = ()
    """Columns of the source that the contract does not name; their values are not kept."""
    contract_version: int = 1
    """Counts the changes of the table's contract."""
    contract_changes: tuple[str, ...] = ()
    """What made the contract's version, against the one before."""


def ingest(
    source: Source,
    contract: Contract,
    catalog: Catalog,
    *,
    run_id: str,
    now: datetime,
    mode: Mode = "overwrite",
    progress: Progress | None = None,
) -> IngestReport:
    """Read, check and store a source on Ray Data; nothing is visible before all of it is.

    Safe to repeat after a kill at any moment with the same `run_id`: a finished ingest gives
    its report again, an unfinished one goes on with the chunks that are left, where the source
    can be read again and is as it was, and leaves no trace of the first try.
    Uniqueness is tested within this source, not against rows that ``append`` finds in the table.

    Args:
        source: Files, or another `rows.Source`, to read.
        contract: What rows must keep, and the table's name.
        catalog: Where the table and its quarantine table live.
        run_id: Who writes.
        now: The time that no moment may lie after; with time zone.
        mode: Whether both tables are replaced or added to.
        progress: Called with rows so far, None, and ``rows`` with their rate.

    Raises:
        ConfigError: A file is missing or lacks a column; `now` has no time zone.
        GateRefused: More rows would go to quarantine than the contract allows, or the good ones
            break a rule about the whole table.
        Unavailable: The source or the tables' store does not answer, or a file changed while it
            was read.
    """
    require(now.tzinfo is not None, "ingest.now", now, "must have a time zone")
    done = catalog.commit_of(contract.table, run_id)
    if done is not None:
        origins.tell(catalog, contract.table, source, run_id, done.version)
        return _restored(done.version, done.details)
    before = block_runs.stamps(source)
    members = source.plan()
    wanted = [column.source_name for column in contract.columns]
    ignored = tuple(
        dict.fromkeys(name for member in members for name in require_columns(member, wanted))
    )
    work = block_runs.begun(
        Work(
            source=source, members=tuple(members), contract=contract, catalog=catalog,
            run_id=run_id, now=now,
        )
    )  # fmt: skip
    blocks = block_runs.without_duplicates(block_runs.blocks(work, progress=progress), work)
    block_runs.require_unchanged(source, before)
    rows_read = sum(block.num_rows for block in blocks)
    reasons = Counter(row.kind for block in blocks for row in block.refused)
    _require_few(contract, reasons, rows_read)
    found = together(block.profile for block in blocks)
    _require_whole(contract, found, now)
    quarantine = _quarantine(blocks, members)
    quarantine_version = catalog.write(
        contract.quarantine_table, quarantine, run_id=run_id, mode=mode
    )
    stored = contract_changes.stored(contract, _contract_before(catalog, contract.table))
    staged = [file for block in blocks for file in block.staged]
    report = IngestReport(
        table=contract.table,
        version=-1,
        rows_read=rows_read,
        rows_written=sum(file.num_rows for file in staged),
        rows_quarantined=quarantine.height,
        reasons=dict(reasons.most_common()),
        quarantine_version=quarantine_version,
        columns_ignored=ignored,
        contract_version=stored["version"],
        contract_changes=tuple(stored["changes"]),
    )
    assert report.rows_read == report.rows_written + report.rows_quarantined, report
    details = {
        "ingest": asdict(report),
        "contract": stored,
        "profile": _plain(found),
        "files": [member.label for member in members],
        "position": source.position(members),
    }
    version = catalog.commit(
        contract.table,
        staged,
        contract.schema(),
        run_id=run_id,
        mode=mode,
        details=details,
        partition_by=contract.partition_by,
        tags=contract.pii,
    )
    origins.tell(catalog, contract.table, source, run_id, version)
    for table in (contract.table, contract.quarantine_table):
        catalog.sweep(table, run_id)
    block_runs.clean(work)
    done_report = _restored(version, details)
    catalog.storage(contract.table).write(
        contract_report.path(run_id),
        contract_report.page(contract, asdict(done_report), found, now).encode(),
    )
    return done_report


def _contract_before(catalog: Catalog, table: str) -> dict[str, Any] | None:
    """What the table's last ingest kept of its contract; None if it was never ingested."""
    if catalog.version(table) is None:
        return None
    kept = (entry.details.get("contract") for entry in catalog.entries(table))
    found: dict[str, Any] | None = next((item for item in kept if isinstance(item, dict)), None)
    return found


def _plain(found: Profile) -> dict[str, Any]:
    return {
        name: {
            "rows": item.num_rows,
            "nulls": item.num_nulls,
            "low": None if item.low is None else str(item.low),
            "high": None if item.high is None else str(item.high),
        }
        for name, item in found.items()
    }


def _require_whole(contract: Contract, found: Profile, now: datetime) -> None:
    failures = judge(contract, found, now)
    if failures:
        first = failures[0]
        more = f"; {len(failures) - 1} more" if len(failures) > 1 else ""
        raise GateRefused(f"table {contract.table}", first.check, first.saw, f"{first.need}{more}")


def _restored(version: int, details: dict[str, Any]) -> IngestReport:
    stored = details["ingest"]
    return IngestReport(
        **{
            **stored,
            "version": version,
            "columns_ignored": tuple(stored["columns_ignored"]),
            "contract_changes": tuple(stored.get("contract_changes", ())),
        }
    )


def _quarantine(blocks: list[Block], members: Sequence[Member]) -> pl.DataFrame:
    """Number the refused lines within their files; a header is line 1."""
    import polars as pl

    before = [member.first_line for member in members]
    rows = []
    for block in blocks:
        rows += [
            (members[block.file].label, before[block.file] + row.line, row.reason, row.raw)
            for row in block.refused
        ]
        before[block.file] += block.num_lines
    schema = {"source": pl.String, "line": pl.Int64, "reason": pl.String, "raw": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _require_few(contract: Contract, reasons: Counter[str], rows_read: int) -> None:
    refused = reasons.total()
    if refused <= contract.max_quarantined_ratio * rows_read:
        return
    most = "; ".join(f"{count} x {reason}" for reason, count in reasons.most_common(3))
    raise GateRefused(
        f"table {contract.table}",
        "share of quarantined rows",
        f"{refused / rows_read:.4g} ({refused} of {rows_read}: {most})",
        f"at most {contract.max_quarantined_ratio:g}",
    )
