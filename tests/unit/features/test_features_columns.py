from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heliostat.errors import ConfigError
from heliostat.features import columns, wire
from heliostat.features.columns import feast_times, stored
from heliostat.features.definitions import Feature
from heliostat.features.packed import PackedView
from tests.unit.features import typed_view

T0 = datetime(2026, 1, 10, 12, tzinfo=UTC)
WHOLE = st.integers(-(2**63), 2**63 - 1) | st.integers(-200, 200)
MOMENTS = st.datetimes(datetime(1901, 1, 1), datetime(2240, 1, 1)).map(
    lambda moment: moment.replace(tzinfo=UTC)
)
ROWS = st.lists(
    st.tuples(
        MOMENTS, st.none() | st.floats(allow_nan=False), st.none() | WHOLE,
        st.none() | st.text(st.characters(codec="utf-8"), max_size=9),
    ),
    min_size=1, max_size=40,
)  # fmt: skip


@given(rows=ROWS, with_text=st.booleans())
def test_columns_give_the_bytes_that_single_values_give(rows: Any, with_text: bool) -> None:
    """Every value, missing or not, in Feast's form and in the record's."""
    kinds = ("float64", "int64", "string") if with_text else ("float64", "int64")
    names = ("real", "whole", "text")
    view = typed_view.view(
        features=tuple(Feature(name=n, dtype=k) for n, k in zip(names, kinds, strict=False))
    )
    frame = typed_view.frame(*[(f"e{number}", *row) for number, row in enumerate(rows)])
    codec = PackedView.of("p", view).codec()

    (found,) = stored("p", view, frame)

    epoch_us = frame["event_timestamp"].dt.epoch("us").to_list()
    values = [row[1 : 1 + len(kinds)] for row in rows]
    assert found.entities == [wire.key_encoder(("id",))([f"e{n}"]) for n in range(len(rows))]
    assert found.packed == list(map(codec.encode, epoch_us, values))
    assert list(zip(*found.messages, strict=True)) == [
        tuple(wire.ENCODERS[kind](value) for kind, value in zip(kinds, row, strict=True))
        for row in values
    ]


@given(st.lists(st.integers(-(10**15), 10**16) | st.integers(-(10**7), 10**7), min_size=1))
def test_times_are_those_of_protocol_buffers(moments_us: list[int]) -> None:
    """Before 1970 as well, and without a field that is zero."""
    protobuf = pytest.importorskip("google.protobuf.timestamp_pb2")

    found = feast_times(np.array(moments_us))

    wanted = [
        protobuf.Timestamp(seconds=us // 10**6, nanos=us % 10**6 * 1000).SerializeToString()
        for us in moments_us
    ]
    assert found == wanted
    assert list(map(wire.decode_time, found)) == moments_us


def test_many_rows_come_some_at_a_time() -> None:
    """In their order, none left out."""
    view = typed_view.view()
    number = 2 * columns.ROWS + 1
    frame = typed_view.frame(*[(f"e{n}", T0, float(n), n, "") for n in range(number)])

    batches = list(stored("p", view, frame))

    assert [len(batch.entities) for batch in batches] == [columns.ROWS, columns.ROWS, 1]
    assert [wire.decode(v) for batch in batches for v in batch.messages[1]] == list(range(number))


def test_not_a_number_stays_what_it_is() -> None:
    """Feast keeps it apart from a missing value."""
    view = typed_view.view(features=(Feature(name="real", dtype="float64"),))
    frame = typed_view.frame(("a", T0, math.nan, 1, ""))

    (found,) = stored("p", view, frame)

    value: Any = wire.decode(found.messages[0][0])
    assert math.isnan(value)


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pl.Series("whole", [1.5]), "view v.whole = 'Float64': must be int64"),
        (pl.Series("text", [7]), "view v.text = 'Int64': must be string"),
        (pl.Series("real", ["x"]), "view v.real = 'String': must be float64"),
        (pl.Series("id", [1.5]), "entity key = 1.5: must be text or a whole number"),
    ],
)
def test_a_column_of_another_type_is_refused(column: pl.Series, said: str) -> None:
    """Before anything is written; nothing is cut to fit."""
    frame = typed_view.frame(("a", T0, 0.5, 1, "")).with_columns(column)

    with pytest.raises(ConfigError, match=said):
        list(stored("p", typed_view.view(), frame))


def test_narrow_numbers_and_columns_without_any_value_fit() -> None:
    """What a frame of a stream or a file may hold."""
    frame = typed_view.frame(("a", T0 + timedelta(seconds=1), 2.0, 3, "x")).with_columns(
        pl.col("real").cast(pl.Int16), pl.col("whole").cast(pl.UInt8), text=pl.lit(None)
    )

    (found,) = stored("p", typed_view.view(), frame)

    assert [wire.decode(messages[0]) for messages in found.messages] == [2.0, 3, None]
