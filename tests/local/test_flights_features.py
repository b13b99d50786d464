"""The workload's features hold only what was known at the prediction time."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from jobs.flights import features, tables
from tests.local.flights_by_hand import DAY, RawFlights

NUM_ROWS = 600


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(tables.source("flights.csv.zip").paths[0]).parent


@pytest.fixture(scope="module")
def by_hand(folder: Path) -> RawFlights:
    return RawFlights(folder)


@pytest.fixture(scope="module")
def expected(by_hand: RawFlights) -> dict[int, dict[str, Any]]:
    """The features of 600 random flights, by row."""
    sample = random.Random(7).sample(range(len(by_hand.rows)), NUM_ROWS)
    return {row: by_hand.features(row) for row in sample}


@pytest.fixture(scope="module")
def raw(folder: Path) -> dict[str, pl.DataFrame]:
    def read(name: str) -> pl.DataFrame:
        source = (folder / name).open("rb").read()
        if name.endswith(".zip"):
            import io
            import zipfile

            archive = zipfile.ZipFile(io.BytesIO(source))
            source = archive.read(archive.namelist()[0])
        return pl.read_csv(source, null_values=["NA", ""], infer_schema_length=None)

    hour = pl.col("time_hour").str.to_datetime(
        "%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC"
    )
    return {
        "raw/flights": read("flights.csv.zip").with_columns(hour),
        "raw/weather": read("weather.csv").with_columns(hour),
        "raw/planes": read("planes.csv").rename({"year": "built"}),
        "raw/airports": read("airports.csv"),
    }


def _differences(
    raw: Mapping[str, pl.DataFrame],
    by_hand: RawFlights,
    expected: Mapping[int, Mapping[str, Any]],
    movements: Callable[[Mapping[str, pl.DataFrame]], pl.DataFrame],
) -> list[str]:
    """Compare sampled rows of the real views, joined as of the schedule, with the hand-made ones."""
    known = {**raw, "schedule": tables.schedule(raw), "movements": movements(raw)}
    sample = list(expected)
    wanted = pl.DataFrame(
        {
            "row": sample,
            "flight_key": [
                f"{by_hand.rows[i]['carrier']}{by_hand.rows[i]['flight']}-"
                + "".join(filter(str.isdigit, by_hand.rows[i]["time_hour"]))[:10]
                for i in sample
            ],
        }
    )
    rows = wanted.join(
        known["schedule"].select(*features.SERVICE.keys, "scheduled_at"),
        on="flight_key",
        how="left",
    ).sort("scheduled_at")
    for view in features.VIEWS:
        values = view.compute(known).sort("event_timestamp")
        rows = rows.join_asof(
            values, left_on="scheduled_at", right_on="event_timestamp", by=list(view.keys),
            strategy="backward", check_sortedness=False,
            tolerance=None if view.ttl_s is None else f"{int(view.ttl_s)}s",
        ).drop("event_timestamp")  # fmt: skip
    found = []
    for row in rows.iter_rows(named=True):
        hand = dict(expected[row["row"]])
        published = hand.pop("_published", None)
        if published is not None and by_hand.scheduled[row["row"]] - published > DAY:
            hand["last_arr_delay"] = hand["last_dep_delay"] = math.nan
        for name, value in hand.items():
            if value is None:
                continue
            got = row[name]
            if not _same(got, value):
                found.append(f"{row['flight_key']}.{name} = {got!r}, by hand {value!r}")
    return found


def _same(got: object, value: object) -> bool:
    if isinstance(value, str):
        return got == value
    assert isinstance(value, int | float)
    if got is None or (isinstance(got, float) and math.isnan(got)):
        # A window that has seen no event yet has no row: no mean, and no count either.
        return math.isnan(value) or value == 0
    assert isinstance(got, int | float)
    return math.isclose(got, value, rel_tol=1e-9, abs_tol=1e-9)


def test_every_feature_equals_what_was_known_at_the_scheduled_departure(
    raw: dict[str, pl.DataFrame], by_hand: RawFlights, expected: dict[int, dict[str, Any]]
) -> None:
    """600 random flights, all 35 features, recomputed from raw rows without shared code."""
    assert _differences(raw, by_hand, expected, tables.movements) == []


def test_a_planted_leak_is_found(
    raw: dict[str, pl.DataFrame], by_hand: RawFlights, expected: dict[int, dict[str, Any]]
) -> None:
    """Departures that are told half an hour too early change the features, and that is seen."""

    def leaking(known: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        early = pl.col("left_known_at") - pl.duration(minutes=30)
        return tables.movements(known).with_columns(left_known_at=early)

    assert _differences(raw, by_hand, expected, leaking) != []
