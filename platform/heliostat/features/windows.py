"""Sliding-window sums over events, published at fixed marks and only when they change."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import polars as pl


def publication_mark(time: pl.Expr, every: timedelta) -> pl.Expr:
    """Round a time up to the next whole mark: the moment a periodic publisher shows it.

    A time that lies exactly on a mark stays there.
    """
    step = int(every.total_seconds() * 1_000_000)
    micros = time.dt.epoch("us")
    return (-((-micros).floordiv(step)) * step).cast(pl.Datetime("us", "UTC"))


def sliding_sums(
    events: pl.DataFrame,
    *,
    keys: Sequence[str],
    enter: str,
    leave: str,
    values: Sequence[str],
) -> pl.DataFrame:
    """Sum values over the events that are inside, at each moment where a sum changes.

    An event counts from `enter` (inclusive) until `leave` (exclusive); events that leave
    before or when they enter never count. Integer values keep the sums exact, since each
    event is added once and subtracted once.

    Args:
        events: One row per event, with keys, two time columns and integer values.
        keys: Columns that name the entity; rows with a null key are left out.
        enter: Time column, from when the event counts.
        leave: Time column, from when it no longer counts; null means it never leaves.
        values: Integer columns to sum.

    Returns:
        Columns `keys`, ``event_timestamp`` and `values`, one row per entity and change,
        ordered by entity and time. A sum holds until the entity's next row.
    """
    valid = events.filter(
        pl.all_horizontal(pl.col(key).is_not_null() for key in keys)
        & pl.col(enter).is_not_null()
        & (pl.col(leave).is_null() | (pl.col(leave) > pl.col(enter)))
    )
    entering = valid.select(*keys, pl.col(enter).alias("event_timestamp"), *values)
    leaving = valid.filter(pl.col(leave).is_not_null()).select(
        *keys, pl.col(leave).alias("event_timestamp"), *(-pl.col(value) for value in values)
    )
    changes = (
        pl.concat([entering, leaving])
        .group_by(*keys, "event_timestamp")
        .agg(pl.col(values).sum())
        .sort(*keys, "event_timestamp")
        .with_columns(pl.col(value).cum_sum().over(keys) for value in values)
    )
    same = pl.all_horizontal(
        pl.col(value) == pl.col(value).shift(1).over(keys) for value in values
    ).fill_null(value=False)
    return changes.filter(~same)
