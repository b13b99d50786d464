"""The feature views of the workload: each row is stamped with the moment it became known.

Everything that changes is published at whole half-hours. A window's row at a mark covers the
events known at that mark, so a prediction at time T sees what was known at the last mark
before or at T, never more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

import polars as pl

from heliostat.features.definitions import Feature, FeatureService, FeatureView
from heliostat.features.windows import publication_mark, sliding_sums

PUBLISHED_EVERY = timedelta(minutes=30)

MAX_DELAY_MINUTES = 180
"""Delays are clipped here before they are averaged: one flight that is a day late says little."""

OVERDUE_AFTER = timedelta(minutes=15)

FORGOTTEN_AFTER = timedelta(hours=3)
"""A flight that has not left by then is no longer counted as overdue: most were cancelled."""

Tables = Mapping[str, pl.DataFrame]


def schedule(tables: Tables) -> pl.DataFrame:
    """Facts of the timetable, published a day ahead."""
    return tables["schedule"].select(
        "flight_key",
        "day_of_week",
        "minute_of_day",
        "distance",
        "planned_minutes",
        carrier_code="carrier",
        origin_code="origin",
        dest_code="dest",
        event_timestamp=publication_mark(
            pl.col("scheduled_at") - timedelta(days=1), PUBLISHED_EVERY
        ),
    )


def weather(tables: Tables) -> pl.DataFrame:
    """The latest observation; the one of an hour is published when that hour is over."""
    names = ("temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib")
    return tables["raw/weather"].select(
        "origin", *names, event_timestamp=pl.col("time_hour") + timedelta(hours=1)
    )


def aircraft(tables: Tables) -> pl.DataFrame:
    """Facts of the register, known since before the data begins."""
    return tables["raw/planes"].select(
        "tailnum",
        "built",
        "seats",
        event_timestamp=pl.datetime(2012, 1, 1, time_zone="UTC", time_unit="us"),
    )


def origin_departures(tables: Tables) -> pl.DataFrame:
    """How departures from an airport went in the last 2 hours."""
    return _mean_delay(_departures(tables), ["origin"], hours=2, prefix="origin_2h")


def origin_arrivals(tables: Tables) -> pl.DataFrame:
    """How flights that left an airport arrived, over those that landed in the last 6 hours."""
    return _mean_delay(_arrivals(tables), ["origin"], hours=6, prefix="origin_6h_arrival")


def origin_overdue(tables: Tables) -> pl.DataFrame:
    """How many flights should have left an airport and have not."""
    return _overdue(tables, ["origin"], "origin_overdue")


def carrier_departures(tables: Tables) -> pl.DataFrame:
    """How a carrier's departures from an airport went in the last 3 hours."""
    return _mean_delay(_departures(tables), ["origin", "carrier"], hours=3, prefix="carrier_3h")


def dest_departures(tables: Tables) -> pl.DataFrame:
    """How departures to a destination went in the last 3 hours."""
    return _mean_delay(_departures(tables), ["dest"], hours=3, prefix="dest_3h")


def dest_overdue(tables: Tables) -> pl.DataFrame:
    """How many flights to a destination should have left and have not."""
    return _overdue(tables, ["dest"], "dest_overdue")


def aircraft_last_flight(tables: Tables) -> pl.DataFrame:
    """How late an aircraft was on the last flight that it landed."""
    landed = tables["movements"].filter(
        pl.col("landed_at").is_not_null() & pl.col("tailnum").is_not_null()
    )
    return (
        landed.with_columns(event_timestamp=publication_mark(pl.col("landed_at"), PUBLISHED_EVERY))
        .sort("landed_at", "flight_key")
        .group_by("tailnum", "event_timestamp", maintain_order=True)
        .agg(
            last_arr_delay=pl.col("arr_delay").last().cast(pl.Float64),
            last_dep_delay=pl.col("dep_delay").last().cast(pl.Float64),
        )
    )


def route_month(tables: Tables) -> pl.DataFrame:
    """Share of a carrier's flights to a destination that were late, over 28 whole days."""
    return _late_ratio_28d(tables, ["carrier", "dest"], "route_28d_late_ratio")


def origin_month(tables: Tables) -> pl.DataFrame:
    """Share of an airport's flights that were late, over 28 whole days."""
    return _late_ratio_28d(tables, ["origin"], "origin_28d_late_ratio")


def _departures(tables: Tables) -> pl.DataFrame:
    left = tables["movements"].filter(pl.col("left_known_at").is_not_null())
    return left.with_columns(
        enter=publication_mark(pl.col("left_known_at"), PUBLISHED_EVERY), delay="dep_delay"
    )


def _arrivals(tables: Tables) -> pl.DataFrame:
    landed = tables["movements"].filter(pl.col("landed_at").is_not_null())
    return landed.with_columns(
        enter=publication_mark(pl.col("landed_at"), PUBLISHED_EVERY), delay="arr_delay"
    )


def _mean_delay(
    events: pl.DataFrame, keys: Sequence[str], *, hours: int, prefix: str
) -> pl.DataFrame:
    delay = pl.col("delay").clip(-MAX_DELAY_MINUTES, MAX_DELAY_MINUTES)
    sums = sliding_sums(
        events.with_columns(
            leave=pl.col("enter") + timedelta(hours=hours),
            num=pl.lit(1, pl.Int64),
            late=(pl.col("delay") > 15).cast(pl.Int64),
            delay=delay,
        ),
        keys=keys, enter="enter", leave="leave", values=["num", "late", "delay"],
    )  # fmt: skip
    known = pl.when(pl.col("num") > 0)
    return sums.select(
        *keys,
        "event_timestamp",
        known.then(pl.col("delay") / pl.col("num")).alias(f"{prefix}_delay"),
        known.then(pl.col("late") / pl.col("num")).alias(f"{prefix}_late_ratio"),
        pl.col("num").alias(f"{prefix}_num"),
    )


def _overdue(tables: Tables, keys: Sequence[str], name: str) -> pl.DataFrame:
    forgotten = publication_mark(pl.col("scheduled_at") + FORGOTTEN_AFTER, PUBLISHED_EVERY)
    left = publication_mark(pl.col("left_known_at"), PUBLISHED_EVERY)
    waiting = tables["movements"].with_columns(
        enter=publication_mark(pl.col("scheduled_at") + OVERDUE_AFTER, PUBLISHED_EVERY),
        leave=pl.min_horizontal(left, forgotten),
        num=pl.lit(1, pl.Int64),
    )
    sums = sliding_sums(waiting, keys=keys, enter="enter", leave="leave", values=["num"])
    return sums.select(*keys, "event_timestamp", pl.col("num").alias(name))


def _late_ratio_28d(tables: Tables, keys: Sequence[str], name: str) -> pl.DataFrame:
    """Landings of a UTC day count from the next midnight for 28 days."""
    landed = tables["movements"].filter(pl.col("landed_at").is_not_null())
    midnight = pl.col("landed_at").dt.truncate("1d") + timedelta(days=1)
    sums = sliding_sums(
        landed.with_columns(
            enter=midnight,
            leave=midnight + timedelta(days=28),
            num=pl.lit(1, pl.Int64),
            late=(pl.col("arr_delay") > 15).cast(pl.Int64),
        ),
        keys=keys, enter="enter", leave="leave", values=["num", "late"],
    )  # fmt: skip
    return sums.select(
        *keys,
        "event_timestamp",
        pl.when(pl.col("num") > 0).then(pl.col("late") / pl.col("num")).alias(name),
    )


def _floats(*names: str) -> tuple[Feature, ...]:
    return tuple(Feature(name=name, dtype="float64") for name in names)


def _ints(*names: str) -> tuple[Feature, ...]:
    return tuple(Feature(name=name, dtype="int64") for name in names)


def _strings(*names: str) -> tuple[Feature, ...]:
    return tuple(Feature(name=name, dtype="string") for name in names)


def _delays(prefix: str) -> tuple[Feature, ...]:
    return (*_floats(f"{prefix}_delay", f"{prefix}_late_ratio"), *_ints(f"{prefix}_num"))


def _day(days: float) -> float:
    return days * 86_400.0


OWNER = "delay-prediction"

VIEWS = (
    FeatureView(
        name="schedule", keys=("flight_key",), inputs=("schedule",), compute=schedule, owner=OWNER,
        features=(
            *_strings("carrier_code", "origin_code", "dest_code", "day_of_week"),
            *_ints("minute_of_day", "distance", "planned_minutes"),
        ),
        ttl_s=_day(2),
    ),
    FeatureView(
        name="weather", keys=("origin",), inputs=("raw/weather",), compute=weather, owner=OWNER,
        features=_floats(
            "temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib"
        ),
        ttl_s=_day(0.5),
    ),
    FeatureView(
        name="aircraft", keys=("tailnum",), inputs=("raw/planes",), compute=aircraft, owner=OWNER,
        features=_ints("built", "seats"), ttl_s=None,
    ),
    FeatureView(
        name="origin_departures", keys=("origin",), inputs=("movements",),
        compute=origin_departures, owner=OWNER,
        features=_delays("origin_2h"), ttl_s=_day(1),
    ),
    FeatureView(
        name="origin_arrivals", keys=("origin",), inputs=("movements",),
        compute=origin_arrivals, owner=OWNER,
        features=_delays("origin_6h_arrival"), ttl_s=_day(1),
    ),
    FeatureView(
        name="origin_overdue", keys=("origin",), inputs=("movements",),
        compute=origin_overdue, owner=OWNER, features=_ints("origin_overdue"), ttl_s=_day(1),
    ),
    FeatureView(
        name="carrier_departures", keys=("origin", "carrier"), inputs=("movements",),
        compute=carrier_departures, owner=OWNER, features=_delays("carrier_3h"), ttl_s=_day(1),
    ),
    FeatureView(
        name="dest_departures", keys=("dest",), inputs=("movements",),
        compute=dest_departures, owner=OWNER, features=_delays("dest_3h"), ttl_s=_day(1),
    ),
    FeatureView(
        name="dest_overdue", keys=("dest",), inputs=("movements",), compute=dest_overdue,
        owner=OWNER, features=_ints("dest_overdue"), ttl_s=_day(1),
    ),
    FeatureView(
        name="aircraft_last_flight", keys=("tailnum",), inputs=("movements",),
        compute=aircraft_last_flight, owner=OWNER,
        features=_floats("last_arr_delay", "last_dep_delay"), ttl_s=_day(1),
    ),
    FeatureView(
        name="route_month", keys=("carrier", "dest"), inputs=("movements",), compute=route_month,
        owner=OWNER, features=_floats("route_28d_late_ratio"), ttl_s=_day(29),
    ),
    FeatureView(
        name="origin_month", keys=("origin",), inputs=("movements",), compute=origin_month,
        owner=OWNER, features=_floats("origin_28d_late_ratio"), ttl_s=_day(29),
    ),
)  # fmt: skip

SERVICE = FeatureService(project="flights", name="delay", views=VIEWS)
