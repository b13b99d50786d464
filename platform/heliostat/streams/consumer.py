"""One consumer: micro-batches of its partitions into tables and the online store, without Ray."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from heliostat import telemetry
from heliostat.data import positions
from heliostat.data.positions import Moved, Stretch
from heliostat.data.tables import Catalog
from heliostat.errors import HeliostatError, Unavailable
from heliostat.features.rolling import Key, together
from heliostat.serving.metrics import Meter
from heliostat.streams.judging import OLDEST_US, Judge
from heliostat.streams.metrics import METRICS
from heliostat.streams.partition import Held, restore
from heliostat.streams.recipe import OFFSET, PARTITION, StreamRecipe

if TYPE_CHECKING:
    from heliostat.streams.messages import Reader
    from heliostat.streams.online import OnlineStore, ViewWriter
    from heliostat.streams.scoring import Scorer


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What a consumer did since it began, and how it stands."""

    messages: int = 0
    rows: int = 0
    """Of them, those that kept the contract and came in time."""
    dead: Mapping[str, int] = field(default_factory=dict)
    """Dead letters by kind."""
    commits: int = 0
    moved: int = 0
    """Commits refused because another consumer had been faster."""
    behind: Mapping[str, int] = field(default_factory=dict)
    """Messages not read yet, by partition."""
    watermarks: Mapping[str, float] = field(default_factory=dict)
    """Seconds since 1970 by partition: older events are late."""
    problem: str | None = None
    """What keeps it from going on, if something does."""


class Consumer:
    """Reads partitions as long as it is told to. Not safe in several threads.

    Rows, dead letters and answers are committed with the offsets that they end at; before that
    they can be lost without harm, since they are read again from where the table stands. A
    consumer that was given up for dead and goes on all the same is refused by the table.
    """

    def __init__(
        self,
        recipe: StreamRecipe,
        catalog: Catalog,
        *,
        name: str,
        online: OnlineStore | None = None,
        scorer: Scorer | None = None,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; connects to nothing.

        Args:
            recipe: The stream.
            catalog: Where its tables are.
            name: Of this consumer, for metrics.
            online: Where views go; may be None where there are none.
            scorer: Answers rows; None where the recipe has no scoring.
            clock: Seconds since 1970, for values that fade.
            timer: Seconds that only rise, for intervals.
        """
        self._recipe, self._catalog, self._name = recipe, catalog, name
        self._judge = Judge(recipe)
        self._online = online
        self._scorer = scorer
        self._clock, self._timer = clock, timer
        self._held: dict[str, Held] = {}
        self._reader: Reader | None = None
        self._writer: ViewWriter | None = None
        self._commit_due = self._quiet_since = timer()
        self._pending_rows = 0
        self._part = 0
        self._counts = {"messages": 0, "rows": 0, "commits": 0, "moved": 0}
        self._dead: dict[str, int] = {}
        self._problem: str | None = None
        self.meter = Meter(METRICS)

    def work(self, partitions: Sequence[str], for_s: float) -> Progress:
        """Read these partitions for a while, and commit and leave those that were read before.

        An outside system that is away does not end it: it is told in `Progress.problem`, and
        tried again.

        Raises:
            ConfigError: Messages are gone that were not read, or the table does not fit.
        """
        ends = self._timer() + for_s
        self._problem = None
        try:
            self._own(partitions)
            while self._timer() < ends:
                self._batch(ends)
        except Moved as error:
            self._counts["moved"] += 1
            telemetry.event("stream.moved", stream=self._recipe.name, problem=str(error))
            self._drop()
        except Unavailable as error:
            self._problem = str(error)
            # While there is a reader that knows it: what waits for a table is behind, too.
            found = self._progress()
            self._close_reader()
            time.sleep(min(0.2, for_s))
            return found
        return self._progress()

    def close(self) -> Progress:
        """Commit what was read and let go of everything."""
        try:
            self._commit()
            self._note_produced(list(self._held))
            self._push()
        except Moved:
            self._counts["moved"] += 1
        found = self._progress()
        self._drop()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        return found

    def _own(self, partitions: Sequence[str]) -> None:
        """Make the held partitions those that are wanted."""
        if self._reader is not None and list(self._held) == list(partitions):
            return
        leaving = set(self._held) - set(partitions)
        if leaving:
            self._commit()
            self._note_produced(sorted(leaving))
        self._close_reader()
        self._held = {
            name: self._held.get(name) or restore(self._recipe, self._catalog, name)
            for name in partitions
        }
        if self._scorer is not None:
            # What a killed consumer had answered and not sent.
            places = [self._recipe.place(name) for name in partitions]
            self._scorer.own(places)
            self._scorer.produce(places)
        if partitions:
            self._reader = self._recipe.log.open(
                {name: held.next for name, held in self._held.items()},
                {name: held.read for name, held in self._held.items()},
            )

    def _batch(self, ends: float) -> None:
        began = self._timer()
        if self._pending_rows >= self._recipe.commit_rows:
            # The last commit failed: before there is room again, nothing more is read.
            self._commit()
        if self._reader is None:
            time.sleep(max(0.0, min(self._recipe.batch_every_s, ends - began)))
            return
        found = self._reader.poll(self._recipe.max_batch_messages, self._recipe.batch_every_s)
        count = 0
        holders = [self._held[messages.partition] for messages in found]
        verdicts = self._judge.judge_all(
            [(m, h.newest_us, h.dead_before) for m, h in zip(found, holders, strict=True)]
        )
        for messages, held, judged in zip(found, holders, verdicts, strict=True):
            if not self._pending_rows:
                self._commit_due = self._timer() + self._recipe.commit_every_s
            held.take(messages, judged)
            count += len(messages.offsets)
            self._pending_rows += len(messages.offsets)
            for kind, number in judged.dead["kind"].value_counts().iter_rows():
                self._dead[kind] = self._dead.get(kind, 0) + number
                self.meter.add("heliostat_stream_dead_letters", (self._recipe.name, kind), number)
            self._counts["rows"] += judged.rows.height
        self._counts["messages"] += count
        self.meter.add("heliostat_stream_messages", (self._recipe.name,), count)
        self._fade(count)
        self._push()
        if self._pending_rows and (
            self._pending_rows >= self._recipe.commit_rows or self._timer() >= self._commit_due
        ):
            self._commit()
        took = self._timer() - began
        self.meter.observe("heliostat_stream_batch_seconds", (self._recipe.name,), took)
        if count < self._recipe.max_batch_messages:
            # A broker that hands out single messages would make a batch of each.
            time.sleep(max(0.0, min(self._recipe.batch_every_s, ends - began) - took))

    def _fade(self, count: int) -> None:
        """Move each partition's windows on to its watermark; idle ones follow the clock."""
        now = self._timer()
        if count:
            self._quiet_since = now
        idle_s = self._recipe.idle_s
        idle = idle_s is not None and now - self._quiet_since >= idle_s
        lateness_us = round(self._recipe.lateness_s * 1e6)
        for held in self._held.values():
            if held.newest_us == OLDEST_US:
                continue
            newest_us = round(self._clock() * 1e6) if idle else held.newest_us
            held.advance(max(newest_us, held.newest_us) - lateness_us)

    def _push(self) -> None:
        """Bring changed values to the online store; while it is away they are remembered."""
        if self._online is None or not self._recipe.views:
            return
        if self._writer is None:
            self._writer = self._online.open()
        for place, view in enumerate(self._recipe.views):
            holders = [held for held in self._held.values() if held.dirty[place]]
            if not holders:
                continue
            frame = together((held.rolling[place], held.dirty[place]) for held in holders)
            try:
                written = self._writer.write(view.view, frame)
            except (Unavailable, sqlite3.Error, OSError) as error:
                self._problem = f"online store: {error}"
                self.meter.add("heliostat_stream_push_failures", (self._recipe.name,))
                return
            self.meter.add("heliostat_stream_pushed", (self._recipe.name, view.view.name), written)
            for held in holders:
                told: set[Key] = held.dirty[place]
                held.dirty[place] = set()
                held.rolling[place].forget(told)

    def _commit(self) -> None:
        """Dead letters and answers first, each from its own position; the table last.

        What a kill leaves between them is ahead of the table, and is not committed again.
        """
        busy = [held for held in self._held.values() if held.pending]
        if not busy:
            return
        began = self._timer()
        recipe = self._recipe
        rows = pl.concat(judged.rows for held in busy for judged in held.pending)
        dead = pl.concat(judged.dead for held in busy for judged in held.pending)
        ends = {recipe.place(held.partition): _end(held) for held in busy}
        if dead.height:
            self._commit_aside(recipe.dead_letters, dead, ends)
        if self._scorer is not None and recipe.scoring is not None and rows.height:
            marks = self._scorer.marks(list(ends))
            self._commit_aside(recipe.scoring.into, self._scorer.score(rows), ends, marks)
        positions.append(
            self._catalog,
            recipe.contract.table,
            rows,
            {recipe.place(h.partition): Stretch(begin=h.begin, end=_end(h)) for h in busy},
            run_id=self._run_id,
            part=self._next_part(),
            partition_by=recipe.contract.partition_by,
            tags=recipe.contract.pii,
            details={"stream": self._standing()},
        )
        for held in busy:
            held.done()
        self._pending_rows = 0
        self._counts["commits"] += 1
        took = self._timer() - began
        self.meter.observe("heliostat_stream_commit_seconds", (recipe.name,), took)
        if self._scorer is not None:
            self._scorer.produce(list(ends))

    def _commit_aside(
        self,
        table: str,
        rows: pl.DataFrame,
        ends: Mapping[str, int],
        marks: Mapping[str, int] | None = None,
    ) -> None:
        """Append to a table beside the main one what it does not have yet."""
        at = positions.positions(self._catalog, table, [*ends, *(marks or {})])
        known = [offset for place, end in ends.items() for offset in [at.get(place, 0)] if end]
        begin = pl.DataFrame(
            {PARTITION: list(ends), "__begin": known},
            schema={PARTITION: pl.String, "__begin": pl.Int64},
        )
        new = rows.join(begin, on=PARTITION, how="left", maintain_order="left")
        new = new.filter(pl.col(OFFSET) >= pl.col("__begin")).drop("__begin")
        if new.is_empty():
            return
        positions.append(
            self._catalog,
            table,
            new,
            {
                place: Stretch(begin=at.get(place, 0), end=end)
                for place, end in {**ends, **(marks or {})}.items()
                if end > at.get(place, 0)
            },
            run_id=self._run_id,
            part=self._next_part(),
        )

    def _note_produced(self, partitions: Sequence[str]) -> None:
        """Note what was produced, so that the next reader does not send it again."""
        if self._scorer is None or self._recipe.scoring is None:
            return
        table = self._recipe.scoring.into
        marks = self._scorer.marks([self._recipe.place(name) for name in partitions])
        at = positions.positions(self._catalog, table, list(marks))
        moved = {
            place: Stretch(begin=at.get(place, 0), end=end)
            for place, end in marks.items()
            if end > at.get(place, 0)
        }
        if moved:
            none = pl.DataFrame(schema=self._catalog.schema(table))
            positions.append(
                self._catalog, table, none, moved, run_id=self._run_id, part=self._next_part()
            )

    @property
    def _run_id(self) -> str:
        return f"stream-{self._recipe.name}"

    def _next_part(self) -> int:
        self._part += 1
        return self._part

    def _standing(self) -> dict[str, Any]:
        """What `status` shows of this consumer, kept with each commit."""
        try:
            behind = self._behind()
        except HeliostatError:
            # What keeps the broker from answering must not keep rows from their table.
            behind = {}
        return {
            "name": self._recipe.name,
            "topic": self._recipe.log.topic,
            "consumer": self._name,
            "at": datetime.fromtimestamp(self._clock(), UTC).isoformat(),
            "partitions": {
                self._recipe.place(name): {
                    "watermark": self._watermark(held),
                    "behind": behind.get(name),
                }
                for name, held in self._held.items()
            },
        }

    def _watermark(self, held: Held) -> float | None:
        if held.newest_us == OLDEST_US:
            return None
        return held.newest_us / 1e6 - self._recipe.lateness_s

    def _behind(self) -> dict[str, int]:
        return {} if self._reader is None else dict(self._reader.behind())

    def _progress(self) -> Progress:
        try:
            behind = self._behind()
        except Unavailable as error:
            self._problem, behind = self._problem or str(error), {}
        for name, number in behind.items():
            self.meter.set("heliostat_stream_behind", (self._recipe.name, name), number)
        marks = {name: self._watermark(held) for name, held in self._held.items()}
        for name, mark in marks.items():
            if mark is not None:
                late_s = self._clock() - mark
                self.meter.set(
                    "heliostat_stream_watermark_lag_seconds", (self._recipe.name, name), late_s
                )
        return Progress(
            **self._counts,
            dead=dict(self._dead),
            behind=behind,
            watermarks={name: mark for name, mark in marks.items() if mark is not None},
            problem=self._problem,
        )

    def _drop(self) -> None:
        """Forget everything that is not committed; the next `work` reads it from the table."""
        self._close_reader()
        self._held = {}
        self._pending_rows = 0

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _end(held: Held) -> int:
    assert held.next is not None, held.partition
    return held.next
