"""Counts, sums, means and rates over windows that end now: defined once, computed two ways.

`history` computes them over a whole table; `rolling.Rolling` keeps them up to date event by event.
Both add whole numbers only, so that neither order nor batches nor who adds can change a digit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import numpy as np
import polars as pl

from heliostat.config import require, require_name
from heliostat.features.definitions import EVENT_TIMESTAMP, Feature
from heliostat.features.windows import sliding_sums

Function = Literal["count", "sum", "mean", "rate"]

FUNCTIONS: tuple[Function, ...] = ("count", "sum", "mean", "rate")

MAX_UNITS = 2**40
"""Largest value that is added, in units: eight million of them fit into 64 bits."""

_US = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """A stretch of time that ends with the newest event and begins at a multiple of its hop.

    So it is between ``length_s - hop_s`` and ``length_s`` long: what leaves, leaves with its
    whole hop, and only sums per hop have to be kept.
    """

    name: str
    """Ends the features' names, as ``1h``; may begin with a digit."""

    length_s: int

    hop_s: int
    """Divides `length_s`; shorter is more exact and takes more memory."""

    def __post_init__(self) -> None:
        require_name("window.name", f"w{self.name}")
        where = f"window {self.name}"
        require(self.hop_s > 0, f"{where}.hop_s", self.hop_s, "must be above 0")
        require(
            self.length_s > 0 and self.length_s % self.hop_s == 0,
            f"{where}.length_s", self.length_s, f"must be a multiple of hop_s, {self.hop_s}",
        )  # fmt: skip

    @property
    def length_us(self) -> int:
        """Length in microseconds."""
        return self.length_s * _US

    @property
    def hop_us(self) -> int:
        """Hop in microseconds."""
        return self.hop_s * _US


HOUR = Window(name="1h", length_s=3_600, hop_s=300)
DAY = Window(name="1d", length_s=86_400, hop_s=3_600)
WEEK = Window(name="7d", length_s=604_800, hop_s=21_600)


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A number column that is summed."""

    column: str

    unit: float
    """Values are rounded to whole multiples of it, as 0.01 for cents; sums are exact in it."""

    def __post_init__(self) -> None:
        require_name("measure.column", self.column)
        require(
            math.isfinite(self.unit) and self.unit > 0,
            f"measure {self.column}.unit", self.unit, "must be above 0",
        )  # fmt: skip

    @property
    def limit(self) -> float:
        """Largest absolute value that can be added."""
        return self.unit * MAX_UNITS


@dataclass(frozen=True, kw_only=True, slots=True)
class Aggregates:
    """What is counted and summed over events of an entity, and over which windows."""

    keys: tuple[str, ...]
    """Columns that name the entity."""

    time: str
    """Column with the moment of each event, UTC."""

    measures: tuple[Measure, ...] = ()

    windows: tuple[Window, ...] = (HOUR, DAY, WEEK)

    functions: tuple[Function, ...] = FUNCTIONS
    """``count`` and ``rate`` (events per second of the window's length) are of the events;
    ``sum`` and ``mean`` of each measure, over the events that have one."""

    def __post_init__(self) -> None:
        require(bool(self.keys), "aggregates.keys", self.keys, "must name at least one column")
        require(bool(self.windows), "aggregates.windows", self.windows, "must not be empty")
        for part in ("windows", "measures"):
            names = [
                getattr(item, "name", getattr(item, "column", "")) for item in getattr(self, part)
            ]
            require(
                len(set(names)) == len(names), f"aggregates.{part}", tuple(names),
                "must each have an own name",
            )  # fmt: skip
        known = all(item in FUNCTIONS for item in self.functions)
        require(
            known and bool(self.functions), "aggregates.functions", self.functions,
            f"must be some of {FUNCTIONS}",
        )  # fmt: skip
        require(
            bool(self.features), "aggregates.functions", self.functions, "needs a measure to sum"
        )

    @property
    def features(self) -> tuple[Feature, ...]:
        """The features of a view that holds these aggregates, in order."""
        made = []
        for window in self.windows:
            if "count" in self.functions:
                made.append(Feature(name=f"count_{window.name}", dtype="int64"))
            if "rate" in self.functions:
                made.append(Feature(name=f"rate_{window.name}", dtype="float64"))
            for measure in self.measures:
                made += [
                    Feature(name=f"{measure.column}_{function}_{window.name}", dtype="float64")
                    for function in ("sum", "mean")
                    if function in self.functions
                ]
        return tuple(made)

    @property
    def totals(self) -> tuple[str, ...]:
        """Columns with whole numbers that are added: events, and per measure values and units."""
        return ("events", *(f"{kind} {m.column}" for m in self.measures for kind in ("of", "in")))

    @property
    def longest_us(self) -> int:
        """Length of the longest window in microseconds."""
        return max(window.length_us for window in self.windows)


def in_units(events: pl.DataFrame, what: Aggregates) -> pl.DataFrame:
    """Turn events into whole numbers that can be added: keys, time and `Aggregates.totals`.

    Rows with a null key or time are left out. A value that is null, NaN, infinite or beyond the
    measure's limit is not summed; its event counts.
    """
    columns = [pl.lit(1, dtype=pl.Int64).alias("events")]
    for measure in what.measures:
        value = pl.col(measure.column).cast(pl.Float64)
        usable = (value.is_finite() & (value.abs() <= measure.limit)).fill_null(value=False)
        columns += [
            usable.cast(pl.Int64).alias(f"of {measure.column}"),
            pl.when(usable)
            .then((value / measure.unit).round(0, mode="half_to_even"))
            .otherwise(0)
            .cast(pl.Int64)
            .alias(f"in {measure.column}"),
        ]
    named = pl.all_horizontal(pl.col(name).is_not_null() for name in (*what.keys, what.time))
    time = pl.col(what.time).cast(pl.Datetime("us", "UTC"))
    return events.filter(named).select(*what.keys, time, *columns)


def partials(units: pl.DataFrame, what: Aggregates) -> pl.DataFrame:
    """Add `in_units` rows per entity, window and hop: small, and mergeable by adding.

    Returns:
        Keys, ``window`` (its place in the definition), ``hop`` (its start in microseconds),
        ``newest`` (time of the entity's newest event there) and the totals.
    """
    time = pl.col(what.time).dt.epoch("us")
    return pl.concat(
        units.with_columns(
            window=pl.lit(place, dtype=pl.Int64), hop=time.floordiv(window.hop_us) * window.hop_us
        )
        .group_by(*what.keys, "window", "hop")
        .agg(time.max().alias("newest"), *(pl.col(name).sum() for name in what.totals))
        for place, window in enumerate(what.windows)
    )


def history(events: pl.DataFrame, what: Aggregates) -> pl.DataFrame:
    """Every value that the aggregates ever had: what batch features and training sets read.

    Returns:
        Keys, ``event_timestamp`` and the features, one row per entity and moment where a window's
        events change; a row holds until the entity's next one.
    """
    units = in_units(events, what)
    moments, per_window = [], []
    for place, window in enumerate(what.windows):
        hop = timedelta(seconds=window.hop_s)
        sums = sliding_sums(
            units.with_columns(
                leaving=pl.col(what.time).dt.truncate(hop) + timedelta(seconds=window.length_s)
            ),
            keys=what.keys,
            enter=what.time,
            leave="leaving",
            values=what.totals,
        )
        renamed = {name: f"{name} {place}" for name in what.totals}
        per_window.append(sums.rename(renamed).sort(EVENT_TIMESTAMP))
        moments.append(sums.select(*what.keys, EVENT_TIMESTAMP))
    found = pl.concat(moments).unique().sort(EVENT_TIMESTAMP)
    for sums in per_window:
        found = found.join_asof(
            sums, on=EVENT_TIMESTAMP, by=list(what.keys), check_sortedness=False
        )
    filled = found.with_columns(
        pl.col(name).fill_null(0) for name in found.columns[len(what.keys) + 1 :]
    )
    return finish(filled, what).sort(*what.keys, EVENT_TIMESTAMP)


def finish(totals: pl.DataFrame, what: Aggregates) -> pl.DataFrame:
    """Turn whole numbers into features: the only place where a float is made.

    Args:
        totals: Keys, ``event_timestamp`` and, per window, `Aggregates.totals` with the window's
            place behind the name.
        what: The definition.
    """
    # numpy divides; Polars multiplies by the inverse of a scalar, and differs in the last digit.
    made: dict[str, pl.Series] = {}
    for place, window in enumerate(what.windows):
        events_N = totals[f"events {place}"].to_numpy()
        made[f"count_{window.name}"] = totals[f"events {place}"]
        made[f"rate_{window.name}"] = pl.Series(events_N / window.length_s)
        for measure in what.measures:
            number_N = totals[f"of {measure.column} {place}"].to_numpy()
            total_N = totals[f"in {measure.column} {place}"].to_numpy() * measure.unit
            mean_N = pl.Series(total_N / np.maximum(number_N, 1))
            made[f"{measure.column}_sum_{window.name}"] = pl.Series(total_N)
            made[f"{measure.column}_mean_{window.name}"] = mean_N.set(
                pl.Series(number_N == 0), None
            )
    return totals.select(*what.keys, EVENT_TIMESTAMP).with_columns(
        made[item.name].alias(item.name) for item in what.features
    )


def totals_schema(what: Aggregates, keys: Sequence[pl.DataType]) -> dict[str, pl.DataType]:
    """Columns that `finish` takes."""
    return {
        **dict(zip(what.keys, keys, strict=True)),
        EVENT_TIMESTAMP: pl.Datetime("us", "UTC"),
        **{
            f"{name} {place}": pl.Int64()
            for place in range(len(what.windows))
            for name in what.totals
        },
    }
