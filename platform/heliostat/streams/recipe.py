"""What a stream is: where messages come from, what they must be, and what is made of them."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from heliostat.config import require, require_name
from heliostat.data.contract import KINDS, Contract
from heliostat.errors import nearest
from heliostat.features.aggregates import Aggregates
from heliostat.features.definitions import FeatureView
from heliostat.streams.kafka_log import KafkaLog
from heliostat.streams.redis_log import RedisLog

PARTITION = "stream_partition"
"""Column: the stream's name and the partition that the row came from, as ``orders/3``."""

OFFSET = "stream_offset"
"""Column: the message's offset; with `PARTITION` it names the message for good."""

AnyLog = KafkaLog | RedisLog


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamView:
    """Aggregates that are kept up to date in the online store, as a feature view."""

    view: FeatureView
    """Its `compute` gives `aggregates.history` of the stream's table, for training sets."""

    aggregates: Aggregates

    def __post_init__(self) -> None:
        have = [(item.name, item.dtype) for item in self.view.features]
        made = [(item.name, item.dtype) for item in self.aggregates.features]
        where = f"stream view {self.view.name}"
        require(have == made, f"{where}.features", have, f"must be those of the aggregates, {made}")
        require(
            self.view.keys == self.aggregates.keys, f"{where}.keys", self.view.keys,
            f"must be those of the aggregates, {self.aggregates.keys}",
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Scoring:
    """Each event is scored by the version that the rollout policy names for it."""

    model: str

    unit: str
    """Column that the policy splits by; an equal value is always answered by one version."""

    into: str
    """Table of the answers."""

    keep: tuple[str, ...] = ()
    """Columns of the event that go along with its answer."""

    output: AnyLog | None = None
    """Where answers are produced too, once they are in the table; keyed by the unit."""

    def __post_init__(self) -> None:
        require_name("scoring.model", self.model)


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamRecipe:
    """Everything that one stream needs."""

    name: str
    """Names its positions: a stream of another name begins with the oldest message."""

    log: AnyLog

    contract: Contract
    """What each message, one JSON object, must keep; and the table it goes to."""

    time: str
    """Timestamp column with the moment of the event."""

    lateness_s: float = 60.0
    """How far events of a partition may come behind its newest one; later ones are dead letters."""

    max_ahead_s: float = 300.0
    """How far an event's time may lie after its arrival: beyond it a clock is wrong, and believing
    it would make all others late."""

    views: tuple[StreamView, ...] = ()

    project: str = "default"
    """Prefix of the views' tables in the online store."""

    scoring: Scoring | None = None

    idle_s: float | None = 5.0
    """A consumer without messages for so long lets values fade by the clock. None waits for the
    next event: for topics of old events that are replayed."""

    num_consumers: int = 2

    batch_every_s: float = 0.1
    """Shortest time between two micro-batches of a consumer that keeps up."""

    max_batch_messages: int = 20_000
    """Most messages of a micro-batch: a consumer holds no more than two of them, and what a commit
    waits for."""

    commit_every_s: float = 1.0
    """Longest time that a row waits for its commit; each commit makes a file."""

    commit_rows: int = 50_000
    """More rows than these are committed at once."""

    def __post_init__(self) -> None:
        require_name("stream.name", self.name)
        columns = {item.name: item for item in self.contract.columns}
        for reserved in (PARTITION, OFFSET):
            require(reserved not in columns, "stream.contract", reserved, "is a reserved column")
        moments = [n for n, c in columns.items() if c.dtype == "timestamp" and not c.nullable]
        require(
            self.time in moments, "stream.time", self.time,
            "must be a timestamp column that is never missing", breaks=nearest(self.time, moments),
        )  # fmt: skip
        ahead = [item.name for item in self.contract.columns if item.not_in_future]
        require(
            not ahead, "stream.contract", tuple(ahead),
            "must not use not_in_future: max_ahead_s says it for a stream",
        )  # fmt: skip
        for view in self.views:
            what = view.aggregates
            used = (*what.keys, what.time, *(item.column for item in what.measures))
            for name in used:
                require(
                    name in columns, f"stream view {view.view.name}", name,
                    "must be a column of the contract", breaks=nearest(name, columns),
                )  # fmt: skip
            require(
                what.time == self.time, f"stream view {view.view.name}.time", what.time,
                f"must be the stream's, {self.time}",
            )  # fmt: skip
            for measure in what.measures:
                require(
                    columns[measure.column].dtype in ("int64", "float64"),
                    f"stream view {view.view.name}", measure.column, "must be a number",
                )  # fmt: skip
        if self.scoring is not None:
            for name in (self.scoring.unit, *self.scoring.keep):
                require(
                    name in columns, "stream.scoring", name, "must be a column of the contract",
                    breaks=nearest(name, columns),
                )  # fmt: skip
        require(self.lateness_s >= 0, "stream.lateness_s", self.lateness_s, "must be at least 0")
        for part in (
            "max_ahead_s", "num_consumers", "batch_every_s", "max_batch_messages",
            "commit_every_s", "commit_rows",
        ):  # fmt: skip
            require(getattr(self, part) > 0, f"stream.{part}", getattr(self, part), "must be > 0")
        require(
            self.idle_s is None or self.idle_s > 0, "stream.idle_s", self.idle_s,
            "must be above 0, or None",
        )  # fmt: skip

    @property
    def dead_letters(self) -> str:
        """Table of the messages that are no row of the contract's table, each with its reason."""
        return f"{self.contract.table}_dead_letters"

    def place(self, partition: str) -> str:
        """Name of a partition's position, and value of its rows' `PARTITION`."""
        return f"{self.name}/{partition}"

    def schema(self) -> pl.Schema:
        """Columns of the table."""
        more = {PARTITION: pl.String(), OFFSET: pl.Int64()}
        return pl.Schema({**self.contract.schema(), **more})

    def key_types(self, view: StreamView) -> list[pl.DataType]:
        """Polars types of a view's keys."""
        kinds = {item.name: KINDS[item.dtype] for item in self.contract.columns}
        return [kinds[name] for name in view.aggregates.keys]
