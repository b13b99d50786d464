from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from heliostat.features.definitions import Feature, FeatureView
from heliostat.features.point_in_time import ROW, join

DAY = timedelta(days=1)
T0 = datetime(2026, 1, 10, 12, tzinfo=UTC)
MOMENT = pl.Datetime("us", "UTC")


def compute(tables: Any) -> pl.DataFrame:
    """Stand in for a view's function; these tests give its result directly."""
    return tables["t"]


def _view(keys: tuple[str, ...] = ("id",), ttl_s: float | None = 3 * 86_400.0) -> FeatureView:
    return FeatureView(
        name="v",
        keys=keys,
        features=(Feature(name="f", dtype="int64"),),
        inputs=("t",),
        compute=compute,
        ttl_s=ttl_s,
    )


def _values(*rows: tuple[str | None, datetime, int | None], **more: list[Any]) -> pl.DataFrame:
    frame = pl.DataFrame(
        list(rows), schema={"id": pl.String, "event_timestamp": MOMENT, "f": pl.Int64}, orient="row"
    )
    return frame.with_columns(pl.Series(name, items, MOMENT) for name, items in more.items())


def _joined(entities: list[tuple[str | None, datetime]], values: pl.DataFrame, **view: Any) -> Any:
    rows = pl.DataFrame(
        entities, schema={"id": pl.String, "event_timestamp": MOMENT}, orient="row"
    ).with_row_index(ROW)
    return join(rows, values, _view(**view)).sort(ROW)["f"].to_list()


@pytest.mark.parametrize(
    ("case", "age", "expected"),
    [
        ("older than the time to live", 3 * DAY + timedelta(microseconds=1), None),
        ("as old as the time to live", 3 * DAY, 7),
        ("at the same moment", timedelta(0), 7),
        ("a moment later", -timedelta(microseconds=1), None),
    ],
)
def test_a_value_counts_from_its_event_to_its_time_to_live(
    case: str, age: timedelta, expected: int | None
) -> None:
    """Both ends are included, to the microsecond; the entity row is kept in any case."""
    assert _joined([("a", T0)], _values(("a", T0 - age, 7))) == [expected]


def test_later_in_the_same_second_is_the_future() -> None:
    """A value of .900 s is not known at .100 s."""
    second = T0.replace(microsecond=0)
    values = _values(("a", second - DAY, 40), ("a", second + timedelta(milliseconds=900), 41))

    assert _joined([("a", second + timedelta(milliseconds=100))], values) == [40]


def test_of_equal_events_the_one_created_last_counts() -> None:
    """Whatever the order of the rows."""
    created = [T0 - DAY, T0 - 2 * DAY]
    values = _values(("a", T0 - 2 * DAY, 31), ("a", T0 - 2 * DAY, 30), created_timestamp=created)

    assert _joined([("a", T0)], values) == [31]
    assert _joined([("a", T0)], values.reverse()) == [31]


def test_a_row_created_later_is_not_known_yet() -> None:
    """A correction that was written two days later is no knowledge of the day before."""
    values = _values(
        ("a", T0 - DAY, 30), ("a", T0 - DAY, 31), created_timestamp=[T0 - DAY, T0 + DAY]
    )

    assert _joined([("a", T0), ("a", T0 + DAY)], values) == [30, 31]


def test_a_late_row_of_an_older_event_replaces_nothing() -> None:
    """A backfill that comes in after a newer event was known stays behind it."""
    values = _values(
        ("a", T0 - DAY, 2), ("a", T0 - 2 * DAY, 1), created_timestamp=[T0 - DAY, T0 - DAY / 2]
    )

    assert _joined([("a", T0)], values) == [2]


def test_rows_that_match_nothing_are_kept_empty() -> None:
    """Unknown entities, null keys, and entities whose values all lie in the future."""
    values = _values(("a", T0 + DAY, 1), (None, T0 - DAY, 2))

    assert _joined([("a", T0), ("b", T0), (None, T0)], values) == [None, None, None]


def test_repeated_rows_keep_their_number_and_order() -> None:
    """Two equal entity rows are two rows; the order is the caller's, not time's."""
    values = _values(("a", T0 - DAY, 1), ("a", T0 + DAY, 2))
    later = T0 + 2 * DAY

    assert _joined([("a", later), ("a", T0), ("a", T0), ("b", T0)], values) == [2, 1, 1, None]


def test_a_null_value_hides_an_older_one() -> None:
    """A newer row that says "missing" is an answer; no older value shines through."""
    assert _joined([("a", T0)], _values(("a", T0 - DAY, None), ("a", T0 - 2 * DAY, 1))) == [None]


def test_without_values_every_row_is_empty() -> None:
    """A view that is still empty joins as nulls."""
    assert _joined([("a", T0)], _values()) == [None]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ttl_s", [None, 5.0])
@pytest.mark.parametrize("with_created", [False, True])
def test_equal_to_looking_at_every_row(seed: int, ttl_s: float | None, with_created: bool) -> None:
    """500 random rows with many ties, against the definition carried out word by word."""
    source = random.Random(seed)

    def moment() -> datetime:
        return T0 + timedelta(seconds=source.randrange(12))

    def key() -> tuple[str | None, str | None]:
        return source.choice(["a", "b", None]), source.choice(["x", "y"])

    entities = [(*key(), moment()) for _ in range(500)]
    values = [(*key(), moment(), moment(), number) for number in range(60)]
    schema = {"id": pl.String, "kind": pl.String, "event_timestamp": MOMENT}
    left = pl.DataFrame(entities, schema=schema, orient="row").with_row_index(ROW)
    right = pl.DataFrame(
        values, schema={**schema, "created_timestamp": MOMENT, "f": pl.Int64}, orient="row"
    )
    if not with_created:
        right = right.drop("created_timestamp")
        values = [(one, two, event, event, f) for one, two, event, _, f in values]

    def expected(one: str | None, two: str | None, at: datetime) -> int | None:
        known = [
            (event, created, f)
            for first, second, event, created, f in values
            if (first, second) == (one, two) and first is not None and max(event, created) <= at
        ]
        if not known:
            return None
        event, _, f = max(known)
        too_old = ttl_s is not None and (at - event).total_seconds() > ttl_s
        return None if too_old else f

    joined = join(left, right, _view(keys=("id", "kind"), ttl_s=ttl_s)).sort(ROW)

    assert joined["f"].to_list() == [expected(*row) for row in entities]
