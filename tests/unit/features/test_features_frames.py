from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from heliostat.errors import ConfigError
from heliostat.features.definitions import Feature, FeatureService, FeatureView
from heliostat.features.frames import entity_rows, view_rows

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def compute(tables: Any) -> pl.DataFrame:
    """Give a table as it is."""
    return tables["t"]


VIEW = FeatureView(
    name="v",
    keys=("user_id", "slot"),
    integer_keys=("slot",),
    features=(Feature(name="x", dtype="float64"), Feature(name="n", dtype="int64")),
    inputs=("t",),
    compute=compute,
    ttl_s=None,
)
ROWS = pl.DataFrame(
    {
        "n": [1.0, float("nan"), 2.0],
        "x": [1, 2, 3],
        "slot": pl.Series([2, 1, 1], dtype=pl.Int32),
        "user_id": ["b", "a", None],
        "event_timestamp": pl.Series([T0, T0, T0], dtype=pl.Datetime("ms", "Europe/Berlin")),
    }
)


def test_rows_get_the_declared_columns_and_types() -> None:
    """In the declared order, NaN as null, sorted by keys; rows without a key are counted."""
    rows, without_key = view_rows(ROWS, VIEW)

    assert without_key == 1
    assert_frame_equal(
        rows,
        pl.DataFrame(
            {
                "user_id": ["a", "b"],
                "slot": [1, 2],
                "event_timestamp": pl.Series([T0, T0], dtype=pl.Datetime("us", "UTC")),
                "x": [2.0, 1.0],
                "n": pl.Series([None, 1], dtype=pl.Int64),
            }
        ),
    )


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({}, "view v.compute = 'dict': must return a polars.DataFrame"),
        (ROWS.drop("x"), "view v.compute.columns = 'x': must be returned; known: event_timestamp,"),
        (
            ROWS.with_columns(y=1),
            "view v.compute.columns = 'y': must be a key or feature of the view",
        ),
        (ROWS.with_columns(n=0.5), "view v.compute.n = 'Float64': must be int64"),
        (ROWS.with_columns(n=pl.lit("one")), "view v.compute.n = 'String': must be int64"),
        (
            ROWS.with_columns(user_id=1),
            (
                "view v.compute.user_id = 'Int32': must be text; name it in integer_keys if it "
                "is a whole number"
            ),
        ),
        (
            ROWS.with_columns(event_timestamp=pl.lit(datetime(2026, 1, 1))),
            "view v.compute.event_timestamp = \"Datetime(time_unit='us', time_zone=None)\": must be",
        ),
        (
            ROWS.with_columns(event_timestamp=pl.lit(None, pl.Datetime("us", "UTC"))),
            "view v.compute.event_timestamp = None: must never be null; 3 rows have none",
        ),
    ],
)
def test_what_does_not_fit_the_view_is_refused(frame: Any, message: str) -> None:
    """A number that would lose its fraction, a time without zone, a missing column."""
    with pytest.raises(ConfigError) as caught:
        view_rows(frame, VIEW)

    assert str(caught.value).startswith(message)


def test_entity_rows_must_fit_the_service() -> None:
    """Keys and a time with zone, and no column that a feature is named like."""
    service = FeatureService(project="p", name="s", views=(VIEW,))
    good = ROWS.select("user_id", "slot", "event_timestamp", label=1)

    assert entity_rows(good, service).schema["event_timestamp"] == pl.Datetime("us", "UTC")
    for frame, message in (
        (good.drop("slot"), "training set s.entities = 'slot': must be a column; known:"),
        (
            good.with_columns(x=1),
            "training set s.entities = 'x': must not be a column, because a feature has this name",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            entity_rows(frame, service)
        assert str(caught.value).startswith(message)
