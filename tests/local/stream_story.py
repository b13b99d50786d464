"""Events through consumers that are killed and rebalanced, and what must be true afterwards."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from heliostat.data.tables import Catalog
from heliostat.features.aggregates import history
from heliostat.features.definitions import EVENT_TIMESTAMP
from heliostat.features.online import OnlineReader
from heliostat.streams.driver import Driver
from heliostat.streams.online import SqliteOnline
from heliostat.streams.recipe import AnyLog
from tests.unit.streams import orders

CHUNK = 2_000


@dataclass(frozen=True, kw_only=True)
class Story:
    """How much of everything."""

    events: int
    rebalances: int
    kills: int
    customers: int = 500
    poison_every: int = 1_000
    """Each so many messages one more comes that is no JSON."""
    ahead: int | None = None
    """Most messages that the producer may be ahead of the consumers; None sends all it can."""


@dataclass(kw_only=True)
class Outcome:
    """Raw counts."""

    events: int = 0
    poison: int = 0
    rows: int = 0
    lost: int = 0
    doubled: int = 0
    dead: int = 0
    dead_doubled: int = 0
    kills: int = 0
    deaths: int = 0
    """Consumers that ended unasked: those that were killed, and any that hung or died by itself."""
    resizes: int = 0
    rebalances: int = 0
    moved: int = 0
    commits: int = 0
    values_compared: int = 0
    values_different: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


class Producer(threading.Thread):
    """Sends numbered orders, and now and then poison, in chunks."""

    def __init__(self, log: AnyLog, story: Story) -> None:
        super().__init__(daemon=True)
        self._log, self._story = log, story
        self.sent = self.poison = 0
        self.taken = 0
        """What consumers have taken by now; told by who watches them."""
        self.failed: BaseException | None = None
        self._now = datetime.now(UTC)

    def run(self) -> None:
        try:
            writer = self._log.writer()
            while self.sent < self._story.events:
                ahead = self._story.ahead
                if ahead is not None and self.sent - self.taken > ahead:
                    time.sleep(0.02)
                    continue
                chunk = self._chunk()
                writer.send(chunk)
                self.sent += sum(not value.startswith(b"\xff") for _, value in chunk)
        except BaseException as error:  # noqa: BLE001 - told where the thread is joined
            self.failed = error

    def _chunk(self) -> list[tuple[bytes, bytes]]:
        story, made = self._story, []
        for number in range(self.sent, min(self.sent + CHUNK, story.events)):
            # An hour of event time in all, up to 20 s out of order and never late.
            at_s = number / story.events * 3_600 + number * 31 % 20
            at = self._now + timedelta(seconds=at_s - 3_620)
            made.append(orders.message(number, at, customers=story.customers))
            if number % story.poison_every == 0:
                made.append((made[-1][0], b"\xff poison %d" % number))
                self.poison += 1
        return made


def play(log: AnyLog, folder: Path, story: Story, tell: Callable[[str], None] = print) -> Outcome:
    """Produce and consume on the connected Ray, kill and rebalance meanwhile, then count.

    Kills and rebalances are spread over the events; each kill is SIGKILL of a consumer's process
    in the midst of its work.
    """
    import ray

    catalog = Catalog(folder / "tables")
    online = SqliteOnline(path=folder / "online.db", project="shop")
    recipe = orders.recipe(log, batch_every_s=0.05, commit_every_s=0.3, max_batch_messages=10_000)
    producer = Producer(log, story)
    dice = random.Random(7)
    began = time.monotonic()
    producer.start()
    while not producer.sent and producer.is_alive():
        time.sleep(0.02)  # a topic is made by its first message
    driver = Driver(recipe, catalog, online=online)
    out = Outcome(events=story.events)
    steps = story.rebalances + story.kills
    marks = [story.events * (place + 1) // (steps + 1) for place in range(steps)]
    turns = ["kill"] * story.kills + ["resize"] * story.rebalances
    dice.shuffle(turns)
    counts: dict[str, Any] = {}
    # One fault at a time: the next waits until a killed consumer's death was noticed.
    victim: str | None = None
    while producer.is_alive() or driver.behind != 0 or turns or victim in driver.actors:
        driver.step()
        counts |= driver.progress
        in_table = _committed(catalog)
        producer.taken = in_table
        if turns and victim not in driver.actors and in_table >= marks[steps - len(turns)]:
            if turns.pop() == "kill":
                actors = {n: a for n, a in driver.actors.items() if driver.progress[n].messages}
                if not actors:
                    turns.append("kill")
                    continue
                chosen = dice.choice(sorted(actors))
                try:
                    pid = ray.get(actors[chosen].pid.remote(), timeout=30)
                except (ray.exceptions.RayError, TimeoutError):
                    # It is dead or hangs already: the driver sees to that.
                    turns.append("kill")
                    continue
                victim = chosen
                # Anywhere in its work: between two calls it would only be idle.
                threading.Timer(dice.uniform(0.0, 0.4), os.kill, (pid, signal.SIGKILL)).start()
                out.kills += 1
            else:
                driver.resize(1 + len(driver.actors) % 3)
                out.resizes += 1
            tell(f"{in_table:,} of {story.events:,} rows; {len(turns)} faults left")
    producer.join()
    if producer.failed is not None:
        raise producer.failed
    driver.close()
    counts |= driver.progress
    out.poison, out.rebalances = producer.poison, driver.rebalances
    out.deaths = driver.deaths
    out.moved = sum(found.moved for found in counts.values())
    out.seconds = round(time.monotonic() - began, 1)
    count(out, catalog, online, story)
    return out


def _committed(catalog: Catalog) -> int:
    version = catalog.version("orders")
    return 0 if version is None else catalog.num_rows("orders", version)


def count(out: Outcome, catalog: Catalog, online: SqliteOnline, story: Story) -> None:
    """Compare the table with what was sent, and the online store with the batch."""
    numbers = catalog.read("orders", columns=["number"])["number"]
    out.rows, out.commits = len(numbers), int(catalog.version("orders") or 0) + 1
    out.doubled = len(numbers) - numbers.n_unique()
    out.lost = story.events - numbers.n_unique()
    dead = catalog.read("orders_dead_letters")
    out.dead, out.dead_doubled = dead.height, dead.height - dead["raw"].n_unique()
    rows = catalog.read("orders")
    batch = history(rows, orders.WHAT).sort(EVENT_TIMESTAMP)
    reader = OnlineReader(online.path, online.project, [orders.VIEW])
    # Of its values each entity's newest is stored; nothing left a window after its last event
    # up to the watermark, or else the moment when it did is the value's.
    until = pl.col("at").max().over("stream_partition") - timedelta(seconds=30)
    last = rows.with_columns(until=until).group_by("customer").agg(pl.col("at", "until").max())
    at = last.with_columns(pl.max_horizontal("at", "until").alias("at")).sort("at")
    wanted = at.join_asof(
        batch, left_on="at", right_on=EVENT_TIMESTAMP, by="customer", check_sortedness=False
    )
    stored = reader.read({"customer": wanted["customer"].to_list()}, None)
    for feature in orders.VIEW.features:
        pairs = list(zip(stored[feature.name], wanted[feature.name].to_list(), strict=True))
        out.values_compared += len(pairs)
        out.values_different += sum(a != b for a, b in pairs)
