"""Materialization by Ray tasks: each brings a share of a view's files to the online store.

The store itself keeps the newest event of an entity, so tasks may come in any order, at the same
time and twice. What is done is noted in the store, beside the values: a run that was killed goes
on from there, and a store that lost its values has lost the notes with them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from heliostat.config import require
from heliostat.data.tables import Catalog
from heliostat.errors import ConfigError, HeliostatError
from heliostat.features import intervals, parity, stores
from heliostat.features.cells import newest_rows
from heliostat.features.definitions import (
    CREATED_TIMESTAMP,
    EVENT_TIMESTAMP,
    FeatureService,
    FeatureView,
)
from heliostat.features.intervals import Interval
from heliostat.features.materialize import MaterializeReport
from heliostat.features.offline import part_of
from heliostat.features.online import OnlineWriter
from heliostat.features.stores import Store

if TYPE_CHECKING:
    import polars as pl

ROWS_PER_TASK = 200_000
"""More rows of a view are split among tasks by a hash of their keys."""

_SHARES = 4
"""A view of fewer rows is split as well, so that a server never waits for one task's reading."""

_FEW_ROWS = 25_000
"""So many rows are not worth another task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Share:
    view: FeatureView
    version: int
    files: tuple[str, ...]
    part: int
    parts: int
    start: datetime | None
    end: datetime

    @property
    def name(self) -> str:
        """The same for the same work, in another run too."""
        names = [
            self.view.digest(), self.version, sorted(self.files), self.part, self.parts,
            str(self.start), str(self.end),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]


def materialize_on_ray(
    service: FeatureService,
    catalog: Catalog,
    store: Store,
    *,
    start: datetime | None,
    end: datetime,
    now: datetime,
    rows_per_task: int = ROWS_PER_TASK,
) -> MaterializeReport:
    """Bring each entity's newest value with an event after `start`, up to and with `end`.

    Values that no read at `end` or later could see, by their view's time to live, are left out.
    A value that is newer in the store stays. The interval is recorded only when every share is
    written and a sample of each view was read back as the tables have it.

    Args:
        service: The views to bring.
        catalog: Where their tables are; the newest versions are taken.
        store: Where to.
        start: Exclusive; None takes everything up to `end`. A row that was created after it
            counts too, however old its event. See `last_end`.
        end: Inclusive.
        now: When this happens, for the record.

    Raises:
        ConfigError: A moment has no time zone, or a view was never built.
        Unavailable: The store is gone; call again, and it goes on with what is missing.
        HeliostatError: What was read back differs from the tables.
    """
    for name, moment in (("start", start), ("end", end), ("now", now)):
        require(
            moment is None or moment.tzinfo is not None, f"materialize.{name}", moment,
            "must have a time zone",
        )  # fmt: skip
    versions = {view.name: _newest(catalog, view) for view in service.views}
    writer = stores.open_writer(store.where, store.file, store.project)
    done = writer.notes()
    rows: dict[str, int] = {}
    works: list[str] = []
    for view in service.views:
        shares = _shares(catalog, view, versions[view.name], start, end, rows_per_task)
        works += [share.name for share in shares]
        missing = [share for share in shares if share.name not in done]
        rows[view.name] = sum(done.get(share.name, 0) for share in shares)
        rows[view.name] += _carry(missing, store, writer)
    views = [SimpleNamespace(**view) for view in service.describe()["views"]]
    compared = parity.check(views, catalog, store, at=end, versions=versions)
    if compared.num_different:
        raise HeliostatError(f"{compared.examples[0]}, as in the table")
    interval = Interval(
        service=service.name, digest=service.digest(), start=start, end=end, at=now, rows=rows,
        versions=versions,
    )  # fmt: skip
    writer.record(interval.to_line())
    writer.forget(works)
    return MaterializeReport(
        start=start, end=end, rows=rows, versions=versions, checked=compared.online
    )


def last_end(service: FeatureService, store: Store) -> datetime | None:
    """Where the last recorded materialization of these very definitions ended: the next start."""
    lines = stores.open_writer(store.where, store.file, store.project).recorded()
    found = intervals.of(lines, service.name, service.digest())
    return max((interval.end for interval in found), default=None)


def _newest(catalog: Catalog, view: FeatureView) -> int:
    version = catalog.version(view.table)
    if version is None:
        raise ConfigError("table", view.table, "must be built before it is materialized")
    return version


def _shares(
    catalog: Catalog,
    view: FeatureView,
    version: int,
    start: datetime | None,
    end: datetime,
    rows_per_task: int,
) -> list[_Share]:
    files = tuple(str(path) for path in catalog.files(view.table, version))
    rows = catalog.num_rows(view.table, version) if files else 0
    parts = max(-(-rows // rows_per_task), min(_SHARES, -(-rows // _FEW_ROWS)))
    return [
        _Share(
            view=view, version=version, files=files, part=part, parts=parts, start=start, end=end
        )
        for part in range(parts)
    ]


def _carry(shares: Sequence[_Share], store: Store, writer: stores.Writer) -> int:
    """Have tasks bring these shares; return the entities brought.

    Few tasks are given at a time, so that a failure leaves few behind, and those are waited for:
    `ray.cancel` of a task whose answer is on its way ends the whole driver (Ray 2.60,
    `Tried to complete task that was not pending`).
    """
    import ray

    task = ray.remote(_bring)
    at_a_time = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    left = list(reversed(shares))
    waiting: dict[Any, _Share] = {}
    brought = 0
    try:
        while left or waiting:
            while left and len(waiting) < at_a_time:
                share = left.pop()
                given = task.options(name=f"materialize:{share.view.name}", max_retries=0)
                waiting[given.remote(share, store)] = share
            (ready,), _ = ray.wait(list(waiting), num_returns=1)
            share = waiting.pop(ready)
            found = _answer(ray, ready)
            if isinstance(writer, OnlineWriter):
                # A file has one writer at a time; the tasks did the reading.
                found = writer.write(share.view, found)
                writer.note(share.name, found)
            brought += found
    finally:
        if waiting:
            ray.wait(list(waiting), num_returns=len(waiting))
    return brought


def _bring(share: _Share, store: Store) -> Any:
    """Write a share and note it, or give its rows to who may write."""
    import polars as pl

    # Every entity is in one share, with all of its rows: which of them is the newest, and was
    # created last, is known here.
    lazy = _inside(pl.scan_parquet(list(share.files)), share.view, share.start, share.end)
    if share.parts > 1:
        lazy = lazy.filter(part_of(share.view.keys, share.parts) == share.part)
    rows = newest_rows(share.view, lazy.collect())
    if store.where == stores.FILE:
        return rows
    writer = stores.open_writer(store.where, store.file, store.project)
    writer.write(share.view, rows)
    writer.note(share.name, rows.height)
    writer.close()
    return rows.height


def _answer(ray: Any, reference: Any) -> Any:
    """The task's answer; its error as itself."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, HeliostatError):
            raise error.cause from error
        raise


def _inside(
    rows: pl.LazyFrame, view: FeatureView, start: datetime | None, end: datetime
) -> pl.LazyFrame:
    import polars as pl

    event = pl.col(EVENT_TIMESTAMP)
    wanted = event <= end
    if view.ttl_s is not None:
        wanted &= event >= end - timedelta(seconds=view.ttl_s)
    if start is not None:
        later = event > start
        if CREATED_TIMESTAMP in rows.collect_schema():
            later |= pl.col(CREATED_TIMESTAMP) > start
        wanted &= later
    return rows.filter(wanted)
