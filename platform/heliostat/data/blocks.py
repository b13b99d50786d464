"""One chunk of a source, from raw lines to a staged file: the work of one Ray task."""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from heliostat.data import block_records
from heliostat.data.block_records import Block, RefusedRow
from heliostat.data.checks import check
from heliostat.data.contract import Contract
from heliostat.data.profile import profile
from heliostat.data.rows import LINE, Member, Source
from heliostat.data.tables import Catalog
from heliostat.errors import HeliostatError, Unavailable

MAX_CHUNKS_PER_FILE = 10**6
"""Chunks are numbered through all files of a source by file * this + chunk."""

RECORDS = "_heliostat/blocks"
"""Folder, below the table's, of what has become of each chunk, for a try after a kill."""

SPOOL = "_heliostat/spool"
"""The same, of chunks that could not be read the same way again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What every task of one ingest needs to know."""

    source: Source
    members: tuple[Member, ...]
    contract: Contract
    catalog: Catalog
    run_id: str
    now: datetime


def check_chunk(batch: pa.Table, work: Work) -> pa.Table:
    """Check chunks as the source reads them and stage their good rows."""

    def block(row: dict[str, Any]) -> Block:
        if row["failed"] is not None:
            raise pickle.loads(row["failed"])  # noqa: S301 - packed by our own task in this run
        raw = _kept(row["raw"], row["file"], row["number"], work)
        return _check(raw, row["file"], row["number"], (), work)

    return _pack(batch, block)


def check_place(batch: pa.Table, work: Work) -> pa.Table:
    """Read the chunks at some places, check them and stage their good rows."""

    def block(row: dict[str, Any]) -> Block:
        raw = _again(row["file"], row["number"], work)
        return _recorded(_check(raw, row["file"], row["number"], (), work), work)

    return _pack(batch, block)


def check_chunk_again(batch: pa.Table, work: Work) -> pa.Table:
    """Read chunks again and stage them without the lines that repeat an earlier row's key."""

    def block(row: dict[str, Any]) -> Block:
        raw = _again(row["file"], row["number"], work)
        return _check(raw, row["file"], row["number"], tuple(row["lines"]), work)

    return _pack(batch, block)


def unpack(batch: pa.Table) -> Iterator[Block]:
    """Read the blocks that a task answered with.

    Raises:
        HeliostatError: What the task met.
    """
    for packed, failed in zip(batch["block"].to_pylist(), batch["failed"].to_pylist(), strict=True):
        if failed is not None:
            raise pickle.loads(failed)  # noqa: S301 - packed by our own task in this run
        block = block_records.unpack(packed)
        assert block is not None, "Ray hands over what a task answered whole"
        yield block


def later_duplicates(blocks: list[Block]) -> dict[tuple[int, int], list[int]]:
    """Find, per block, the lines whose key an earlier line has; blocks come in order."""
    sizes = [len(block.key_lines) for block in blocks]
    if not sum(sizes):
        return {}
    hashes_N2 = np.concatenate([block.key_hashes for block in blocks])
    # Rows whose first half is alone have no equal: mostly all of them, and a sort tells cheaply.
    ordered_N = np.sort(hashes_N2[:, 0])
    shared = np.unique(ordered_N[1:][ordered_N[1:] == ordered_N[:-1]])
    if not len(shared):
        return {}
    suspects = np.flatnonzero(np.isin(hashes_N2[:, 0], shared))
    block_N = np.repeat(np.arange(len(blocks)), sizes)
    line_N = np.concatenate([block.key_lines for block in blocks])
    rows = pl.DataFrame(
        {
            "high": hashes_N2[suspects, 0],
            "low": hashes_N2[suspects, 1],
            "block": block_N[suspects],
            "line": line_N[suspects],
        }
    )
    again = rows.filter(~pl.struct("high", "low").is_first_distinct())
    found: dict[tuple[int, int], list[int]] = {}
    for index, line in again.select("block", "line").iter_rows():
        found.setdefault(blocks[index].place, []).append(line)
    return found


def _recorded(block: Block, work: Work) -> Block:
    """Leave the block for a next try; that one looks whether it is whole."""
    if work.source.repeatable:
        folder = work.catalog.storage(work.contract.table)
        name = f"{RECORDS}/{block.file}-{block.number}.{work.run_id}"
        folder.write_unsynced(name, block_records.pack(block))
    return block


def _kept(raw: bytes, file: int, number: int, work: Work) -> bytes:
    if not work.source.repeatable and work.contract.keys:
        folder = work.catalog.storage(work.contract.table)
        folder.write(f"{SPOOL}/{file}-{number}.{work.run_id}", raw)
    return raw


def _again(file: int, number: int, work: Work) -> bytes:
    if work.source.repeatable:
        member = work.members[file]
        try:
            return work.source.read_chunk(member, number)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise unreadable(member, error) from error
    raw = work.catalog.storage(work.contract.table).read(f"{SPOOL}/{file}-{number}.{work.run_id}")
    assert raw is not None, "a chunk of this run is in its spool until the run has committed"
    return raw


def unreadable(member: Member, error: Exception) -> Unavailable:
    """Say that a file could be planned and then not be read to its end."""
    return Unavailable(
        member.label, f"cannot be read to its end; {error}",
        next_step="Repeat the ingest when it can be: nothing was committed",
    )  # fmt: skip


def _check(raw: bytes, file: int, number: int, repeated: tuple[int, ...], work: Work) -> Block:
    contract = work.contract
    chunk = work.source.parse(raw, work.members[file])
    good, broken = check(chunk.rows, contract, work.now)
    refused = [(item.line, item.kind, item.reason) for item in chunk.malformed]
    refused += [(item.line, item.kind, item.reason) for item in broken]
    if repeated:
        again = pl.col(LINE).is_in(list(repeated))
        for row in good.filter(again).iter_rows(named=True):
            values = ", ".join(f"{key} = {row[key]!s}" for key in contract.keys)
            refused.append(
                (
                    row[LINE],
                    f"{', '.join(contract.keys)}: must be unique",
                    f"{values}: must be unique; an earlier row has it",
                )
            )
        good = good.filter(~again)
    part = file * MAX_CHUNKS_PER_FILE + number
    staged = work.catalog.stage_partitions(
        contract.table, good.drop(LINE), run_id=work.run_id, part=part,
        partition_by=contract.partition_by,
    )  # fmt: skip
    return Block(
        file=file,
        number=number,
        num_bytes=len(raw),
        num_lines=chunk.num_lines,
        num_rows=chunk.num_rows,
        refused=tuple(
            RefusedRow(line=chunk.number(line), kind=kind, reason=reason, raw=chunk.text(line))
            for line, kind, reason in sorted(refused)
        ),
        staged=staged,
        profile=profile(good, [column.name for column in contract.columns]),
        key_hashes=_hash(good, contract.keys),
        key_lines=good[LINE].to_numpy() if contract.keys else np.zeros(0, dtype=np.int64),
    )


def _hash(rows: pl.DataFrame, keys: tuple[str, ...]) -> NDArray[np.uint64]:
    if not keys:
        return np.zeros((0, 2), dtype=np.uint64)
    # Two seeds make 128 bits: by chance equal in fewer than 1 of 10^20 pairs of rows.
    key = pl.struct(keys)
    hashes = rows.select(high=key.hash(seed=0x5EED), low=key.hash(seed=0xFACE))
    return hashes.to_numpy()


def _pack(batch: pa.Table, block: Callable[[dict[str, Any]], Block]) -> pa.Table:
    """Answer with blocks, or with the error on purpose: Ray would hand over another in its place."""
    packed: list[bytes | None] = []
    failed: list[bytes | None] = []
    for row in batch.to_pylist():
        try:
            packed.append(block_records.pack(block(row)))
            failed.append(None)
        except HeliostatError as error:
            packed.append(None)
            failed.append(pickle.dumps(error))
    return pa.table(
        {"block": pa.array(packed, pa.large_binary()), "failed": pa.array(failed, pa.binary())}
    )
