"""Bring feature values from their tables to the online store, and record what was brought."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING

from heliostat.config import require
from heliostat.data.tables import Catalog
from heliostat.errors import ConfigError, HeliostatError
from heliostat.features import stores
from heliostat.features.cells import Cell, encode, newest_rows
from heliostat.features.definitions import (
    CREATED_TIMESTAMP,
    EVENT_TIMESTAMP,
    FeatureService,
    FeatureView,
)
from heliostat.features.intervals import Interval
from heliostat.features.online import OnlineWriter
from heliostat.features.stores import Writer

if TYPE_CHECKING:
    import polars as pl

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_FEW = 2_000
"""Steps over more rows first look for the newest of each entity; others write rows in order."""

ENTITIES_CHECKED = 100
"""Entities per view that are read back after each materialization."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MaterializeReport:
    """What one materialization brought to the online store."""

    start: datetime | None
    end: datetime

    rows: Mapping[str, int]
    """Entities written, by view."""

    versions: Mapping[str, int]
    """Version of each view's table, by view."""

    checked: int
    """Entities that were read back and found equal."""


class Timeline:
    """The service's values in the order they became known, held in memory to be replayed.

    Brings what became known since the last step; meant for a clock that advances often.
    """

    def __init__(
        self,
        service: FeatureService,
        catalog: Catalog,
        *,
        start: datetime | None,
        end: datetime | None = None,
        versions: Mapping[str, int] | None = None,
        alive_at: datetime | None = None,
    ) -> None:
        """Read the values with an event after `start` and at or before `end`.

        Args:
            service: The views to read.
            catalog: Where their tables are.
            start: The first step begins here, exclusive; None begins with the oldest value.
            end: The latest moment that will be asked for; None has no limit.
            versions: Version of each view's table by view name; the newest where absent.
            alive_at: Leave out values that are older than their view's time to live at this
                moment; None keeps them.
        """
        self.versions = {
            view.name: (versions or {}).get(view.name, _newest(catalog, view))
            for view in service.views
        }
        self._values = {
            view: _ordered(
                _between(
                    _alive(catalog.read(view.table, self.versions[view.name]), view, alive_at),
                    start,
                    end,
                ),
                view,
            )
            for view in service.views
        }
        self._events = {
            view: values[EVENT_TIMESTAMP].dt.epoch("us").to_list()
            for view, values in self._values.items()
        }
        self._cells: dict[FeatureView, list[Cell]] = {}
        self._next = dict.fromkeys(self._values, 0)

    def advance(self, writer: Writer, to: datetime) -> dict[str, int]:
        """Write every value with an event at or before `to` that was not written yet.

        All views change in one transaction; on a server, an entity's values of each view do.

        Returns:
            Rows written, by view; in a step over many rows, only the newest of each entity.
        """
        to_us = (to - _EPOCH) // _MICROSECOND
        written: dict[str, int] = {}
        batches: list[tuple[FeatureView, Iterable[Cell]]] = []
        for view, values in self._values.items():
            begin = self._next[view]
            stop = bisect_right(self._events[view], to_us, begin)
            self._next[view] = stop
            written[view.name] = stop - begin
            if not isinstance(writer, OnlineWriter):
                if stop > begin:
                    newest = newest_rows(view, values[begin:stop])
                    written[view.name] = newest.height
                    writer.write(view, newest)
            elif stop - begin > _FEW:
                newest = newest_rows(view, values[begin:stop])
                written[view.name] = newest.height
                batches.append((view, encode(view, newest)))
            elif stop > begin:
                width = len(view.features)
                batches.append((view, self._encoded(view)[begin * width : stop * width]))
        if isinstance(writer, OnlineWriter) and batches:
            writer.write_cells(batches)
        return written

    def _encoded(self, view: FeatureView) -> list[Cell]:
        """Every cell of the view, encoded once: a clock that advances often asks often."""
        if view not in self._cells:
            self._cells[view] = list(encode(view, self._values[view]))
        return self._cells[view]

    def values(self, view: FeatureView) -> pl.DataFrame:
        """All values of a view, in the order of their events."""
        return self._values[view]


def materialize(
    service: FeatureService,
    catalog: Catalog,
    writer: Writer,
    *,
    start: datetime | None,
    end: datetime,
    now: datetime,
) -> MaterializeReport:
    """Write each entity's newest value with an event after `start` and at or before `end`.

    Values that no read at `end` or later could see, by their view's time to live, are left out.
    A value that is newer in the store stays. Safe to repeat after a kill: views are written
    whole or not at all, and the interval is recorded only when all are written and a sample of
    each was read back.

    Args:
        service: The views to bring.
        catalog: Where their tables are; the newest versions are taken.
        writer: The online store.
        start: Exclusive; None takes everything up to `end`.
        end: Inclusive.
        now: When this happens, for the record.

    Raises:
        ConfigError: A moment has no time zone, or a view was never built.
        HeliostatError: What was read back differs from what was written.
    """
    for name, moment in (("start", start), ("end", end), ("now", now)):
        require(
            moment is None or moment.tzinfo is not None,
            f"materialize.{name}",
            moment,
            "must have a time zone",
        )
    timeline = Timeline(service, catalog, start=start, end=end, alive_at=end)
    rows = timeline.advance(writer, end)
    checked = sum(
        _read_back(service, view, timeline.values(view), writer, end) for view in service.views
    )
    interval = Interval(
        service=service.name, digest=service.digest(), start=start, end=end, at=now, rows=rows,
        versions=timeline.versions,
    )  # fmt: skip
    writer.record(interval.to_line())
    return MaterializeReport(
        start=start, end=end, rows=rows, versions=timeline.versions, checked=checked
    )


def _newest(catalog: Catalog, view: FeatureView) -> int:
    version = catalog.version(view.table)
    if version is None:
        raise ConfigError("table", view.table, "must be built before it is materialized")
    return version


def _ordered(rows: pl.DataFrame, view: FeatureView) -> pl.DataFrame:
    order = [name for name in (EVENT_TIMESTAMP, CREATED_TIMESTAMP) if name in rows.columns]
    return rows.drop_nulls(list(view.keys)).sort(order, maintain_order=True)


def _alive(rows: pl.DataFrame, view: FeatureView, moment: datetime | None) -> pl.DataFrame:
    import polars as pl

    if moment is None or view.ttl_s is None:
        return rows
    return rows.filter(pl.col(EVENT_TIMESTAMP) >= moment - timedelta(seconds=view.ttl_s))


def _between(rows: pl.DataFrame, start: datetime | None, end: datetime | None) -> pl.DataFrame:
    import polars as pl

    event = pl.col(EVENT_TIMESTAMP)
    if start is not None:
        rows = rows.filter(event > start)
    if end is not None:
        rows = rows.filter(event <= end)
    return rows


def _read_back(
    service: FeatureService,
    view: FeatureView,
    values: pl.DataFrame,
    writer: Writer,
    end: datetime,
) -> int:
    """Compare a sample with the store; entities that were newer there are not compared."""
    if not values.height:
        return 0
    newest = newest_rows(view, values)
    sample = newest.sample(min(ENTITIES_CHECKED, newest.height), seed=0)
    names = [item.name for item in view.features]
    (plain,) = (each for each in service.describe()["views"] if each["name"] == view.name)
    ageless = SimpleNamespace(**{**plain, "ttl_s": None})
    reader = stores.reader_of(writer, service.project, [ageless])
    keys = {key: sample[key].to_list() for key in view.keys}
    as_of_end, current = reader.read(keys, end), reader.read(keys, None)
    checked = 0
    for row in range(sample.height):
        stored = [as_of_end[name][row] for name in names]
        if stored != [current[name][row] for name in names]:
            continue
        wanted = [sample[name][row] for name in names]
        if stored != wanted:
            where = ", ".join(f"{key}={keys[key][row]!r}" for key in view.keys)
            raise HeliostatError(
                f"online store {view.name}({where}) = {stored}: must be {wanted}, as written"
            )
        checked += 1
    return checked
