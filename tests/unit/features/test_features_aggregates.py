"""Windowed aggregates: batch and stream against a count by hand, for any order and batches."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat.errors import ConfigError
from heliostat.features.aggregates import Aggregates, Measure, Window, history
from heliostat.features.rolling import Rolling

START = datetime(2026, 3, 29, tzinfo=UTC)
SHORT = Window(name="10s", length_s=10, hop_s=5)
LONG = Window(name="1m", length_s=60, hop_s=20)
WHAT = Aggregates(
    keys=("id",),
    time="at",
    measures=(Measure(column="amount", unit=0.01),),
    windows=(SHORT, LONG),
)
SCHEMA = {"id": pl.String, "at": pl.Datetime("us", "UTC"), "amount": pl.Float64}

events = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.integers(0, 150_000_000),
        st.one_of(st.none(), st.sampled_from([float("nan"), float("inf")]), st.floats(-1e6, 1e6)),
    ),
    max_size=60,
)


def frame(rows) -> pl.DataFrame:
    return pl.DataFrame(
        [(key, START + timedelta(microseconds=us), value) for key, us, value in rows],
        schema=SCHEMA,
        orient="row",
    )


def by_hand(rows, key, at) -> dict[str, float | None]:
    """Each window's features of one entity at one moment, from the definition's own words."""
    found: dict[str, float | None] = {}
    for window in WHAT.windows:
        hop, length = window.hop_s * 10**6, window.length_s * 10**6
        start = int(START.timestamp()) * 10**6
        inside = [
            value
            for name, us, value in rows
            if name == key and us <= at and (start + us) // hop * hop + length > start + at
        ]
        cents = [
            round(Fraction(v / 0.01)) for v in inside if v is not None and abs(v) < float("inf")
        ]
        found[f"count_{window.name}"] = len(inside)
        found[f"rate_{window.name}"] = len(inside) / window.length_s
        found[f"amount_sum_{window.name}"] = sum(cents) * 0.01
        found[f"amount_mean_{window.name}"] = sum(cents) * 0.01 / len(cents) if cents else None
    return found


def values_at(batch: pl.DataFrame, key, moment):
    """The batch value that holds for an entity at a moment."""
    known = batch.filter((pl.col("id") == key) & (pl.col("event_timestamp") <= moment))
    return known.drop("id", "event_timestamp").row(-1, named=True)


@settings(max_examples=60, deadline=None)
@given(rows=events)
def test_every_batch_value_is_what_a_count_by_hand_gives(rows):
    """At each change, with values that are missing, NaN and infinite among them."""
    for row in history(frame(rows), WHAT).iter_rows(named=True):
        at = (row.pop("event_timestamp") - START) // timedelta(microseconds=1)
        assert row == {"id": row["id"], **by_hand(rows, row["id"], at)}


@settings(max_examples=60, deadline=None)
@given(rows=events, data=st.data())
def test_a_stream_ends_with_the_values_of_the_batch_however_events_come(rows, data):
    """Any order, any cut into batches, time moved on between them: not a digit differs."""
    shuffled = data.draw(st.permutations(rows))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=4)))
    rolling = Rolling(WHAT, [pl.String()])
    start_us = int(START.timestamp()) * 10**6
    for begin, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        rolling.add(frame(shuffled[begin:end]))
        if data.draw(st.booleans()):
            rolling.advance(start_us + data.draw(st.integers(0, 250_000_000)))
    batch = history(frame(rows), WHAT)

    streamed = rolling.values([(key,) for key in sorted({key for key, _, _ in rows})])

    assert streamed.height == len({key for key, _, _ in rows})
    for row in streamed.iter_rows(named=True):
        key, moment = row.pop("id"), row.pop("event_timestamp")
        assert row == values_at(batch, key, moment)


@settings(max_examples=40, deadline=None)
@given(rows=events, at=st.integers(0, 300_000_000))
def test_advancing_tells_each_entity_whose_window_lost_something(rows, at):
    """What changed between an entity's newest event and then is told, and nothing else."""
    rolling = Rolling(WHAT, [pl.String()])
    rolling.add(frame(rows))
    keys = sorted({(key,) for key, _, _ in rows})
    before = rolling.values(keys).drop("event_timestamp")

    changed = rolling.advance(int(START.timestamp()) * 10**6 + at)

    after = rolling.values(keys).drop("event_timestamp")
    differ = {
        (a["id"],) for a, b in zip(before.to_dicts(), after.to_dicts(), strict=True) if a != b
    }
    assert differ == changed


def test_an_entity_with_nothing_inside_is_forgotten_and_begins_anew():
    """Memory holds the entities of the longest window only; one that returns counts from 1."""
    rolling = Rolling(WHAT, [pl.String()])
    rolling.add(frame([("a", 0, 1.0), ("b", 90_000_000, 1.0)]))
    gone = rolling.advance(int(START.timestamp()) * 10**6 + 95_000_000)
    told = rolling.values(sorted(gone))
    rolling.forget(gone)

    rolling.add(frame([("a", 96_000_000, 2.0)]))

    assert (told["count_1m"].to_list(), len(rolling)) == ([0], 2)
    assert rolling.values([("a",)])["count_1m"].to_list() == [1]


def test_sums_do_not_depend_on_the_order_of_addition():
    """Floats added in another order differ in the last digit; whole units do not."""
    rows = [("a", place, 0.1 * place) for place in range(1, 1001)]
    forward = history(frame(rows), WHAT)["amount_sum_1m"].max()
    rolling = Rolling(WHAT, [pl.String()])
    for row in reversed(rows):
        rolling.add(frame([row]))

    assert rolling.values([("a",)])["amount_sum_1m"].to_list() == [forward]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Window(name="1h", length_s=3600, hop_s=7), "window 1h.length_s = 3600: must be a"),
        (lambda: Window(name="A", length_s=1, hop_s=1), "window.name = 'wA'"),
        (lambda: Measure(column="x", unit=0.0), "measure x.unit = 0.0: must be above 0"),
        (lambda: Aggregates(keys=(), time="at"), "aggregates.keys = ()"),
        (lambda: Aggregates(keys=("a",), time="at", windows=()), "aggregates.windows = ()"),
        (
            lambda: Aggregates(keys=("a",), time="at", windows=(SHORT, SHORT)),
            "aggregates.windows = ('10s', '10s'): must each have an own name",
        ),
        (
            lambda: Aggregates(keys=("a",), time="at", functions=("sum",)),
            "aggregates.functions = ('sum',): needs a measure to sum",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_when_it_is_built(make, said):
    """The field, its value and the rule are named."""
    with pytest.raises(ConfigError) as caught:
        make()

    assert str(caught.value).startswith(said)
