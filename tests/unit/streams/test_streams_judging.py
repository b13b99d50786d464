"""What becomes of each message: rows, dead letters, watermarks."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from heliostat.data.contract import Column, Contract
from heliostat.errors import ConfigError
from heliostat.streams.judging import OLDEST_US, Judge
from heliostat.streams.messages import Messages
from heliostat.streams.recipe import OFFSET, StreamRecipe
from heliostat.streams.redis_log import RedisLog

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOON_US = int(NOON.timestamp()) * 10**6
CONTRACT = Contract(
    table="events",
    columns=(
        Column(name="id", dtype="string"),
        Column(name="at", dtype="timestamp"),
        Column(name="amount", dtype="float64", nullable=True, maximum=1_000.0),
    ),
)
RECIPE = StreamRecipe(
    name="orders", log=RedisLog(url="redis://127.0.0.1:1", topic="t"), contract=CONTRACT,
    time="at", lateness_s=10.0, max_ahead_s=5.0,
)  # fmt: skip


def message(after_s: float, **more) -> bytes:
    at = (NOON + timedelta(seconds=after_s)).isoformat()
    return json.dumps({"id": "a", "at": at, "amount": 1.0, **more}).encode()


def messages(values, begin=100, arrived_us=NOON_US) -> Messages:
    return Messages(
        partition="3",
        offsets=range(begin, begin + len(values)),
        arrived_us=[arrived_us] * len(values),
        values=values,
    )


def judge(values, newest_us=OLDEST_US, dead_before=()):
    return Judge(RECIPE).judge(messages(values), newest_us, dead_before)


@pytest.mark.parametrize(
    ("value", "kind", "said"),
    [
        (b"", "empty", "message: must not be empty"),
        (b" \n ", "empty", "message: must not be empty"),
        (b"\xff\x00\x80", "malformed", "line: must be a JSON object; "),
        (b"[1, 2]", "malformed", "line: must be a JSON object; it is list"),
        (b'{"id": NaN}', "malformed", "line: must be a JSON object; "),
        (b'{"id": "a", "at": "2026-01-01T12:00:00Z"', "malformed", "line: must be a JSON object"),
        (message(0, id=None), "contract", "id = None: must not be missing"),
        (message(0, at="noon"), "contract", "at = 'noon': must be timestamp"),
        (message(0, amount="much"), "contract", "amount = 'much': must be float64"),
        (message(0, amount=1e4), "contract", "amount = 10000.0: must be at most 1000"),
        (message(5.5), "future", "at is 5.500 s after the arrival: must be at most 5 s"),
        (message(3e8), "future", "at is 300000000.000 s after the arrival"),
    ],
)
def test_a_poisoned_message_is_a_dead_letter_with_its_reason_and_its_bytes(value, kind, said):
    """Messages around it become rows, and no clock is believed that runs ahead."""
    found = judge([message(0), value, message(1)])

    assert found.rows[OFFSET].to_list() == [100, 102]
    (dead,) = found.dead.to_dicts()
    assert (dead["kind"], dead["raw"], dead["stream_offset"]) == (kind, value, 101)
    assert dead["reason"].startswith(said)
    assert dead["stream_partition"] == "orders/3"
    assert found.newest_us == NOON_US + 10**6


def test_a_row_is_late_behind_those_before_it_and_never_behind_those_after_it():
    """Exactly at the watermark it is in time; a late one does not move it."""
    found = judge([message(-20), message(0), message(-10), message(-10.001), message(-9)])

    assert found.rows[OFFSET].to_list() == [100, 101, 102, 104]
    assert found.dead["reason"].to_list() == [
        "at is 10.001 s before the partition's newest event: must be at most 10 s"
    ]


def test_what_is_a_dead_letter_already_stays_one():
    """A clock that was set right meanwhile would let it through, and it would be there twice."""
    found = judge([message(0), message(1)], dead_before={101})

    assert found.rows[OFFSET].to_list() == [100]
    assert found.dead.is_empty()
    assert found.newest_us == NOON_US


@settings(max_examples=50, deadline=None)
@given(
    after=st.lists(st.one_of(st.floats(-40, 9), st.none()), max_size=30),
    cuts=st.lists(st.integers(0, 30), max_size=5),
)
def test_batches_make_no_difference(after, cuts):
    """The same rows and the same dead letters, with the same reasons, for any cut."""
    values = [b"poison" if s is None else message(round(s, 3)) for s in after]
    whole = judge(values)
    newest_us, rows, dead = OLDEST_US, [], []
    places = sorted({0, len(values), *(min(cut, len(values)) for cut in cuts)})
    for begin, end in pairwise(places):
        part = Judge(RECIPE).judge(messages(values[begin:end], 100 + begin), newest_us, ())
        newest_us = part.newest_us
        rows.append(part.rows)
        dead.append(part.dead)

    assert newest_us == whole.newest_us
    assert whole.rows.height + whole.dead.height == len(values)
    if rows:
        assert pl.concat(rows).equals(whole.rows)
        assert pl.concat(dead).equals(whole.dead)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"time": "id"}, "stream.time = 'id': must be a timestamp column that is never missing"),
        ({"lateness_s": -1.0}, "stream.lateness_s = -1.0"),
        ({"num_consumers": 0}, "stream.num_consumers = 0"),
        (
            {"contract": Contract(table="e", columns=(
                Column(name="at", dtype="timestamp", not_in_future=True),))},
            "stream.contract = ('at',): must not use not_in_future",
        ),
        (
            {"contract": Contract(table="e", columns=(
                Column(name="at", dtype="timestamp"), Column(name=OFFSET, dtype="int64")))},
            "stream.contract = 'stream_offset': is a reserved column",
        ),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_be_meant_is_refused_when_it_is_built(change, said):
    """Before anything is read, naming the field."""
    with pytest.raises(ConfigError) as caught:
        StreamRecipe(
            **{"name": "s", "log": RECIPE.log, "contract": CONTRACT, "time": "at", **change}
        )

    assert str(caught.value).startswith(said)
