"""Pure: join feature values to entity rows as they were known at each row's time."""

from __future__ import annotations

import polars as pl

from heliostat.features.definitions import CREATED_TIMESTAMP, EVENT_TIMESTAMP, FeatureView

ROW = "__row"
"""Number of the entity row, by which joined values find back to it."""

UTC_US = pl.Datetime("us", "UTC")

_KNOWN = "__known"
_EVENT = "__event"


def join(entities: pl.DataFrame, values: pl.DataFrame, view: FeatureView) -> pl.DataFrame:
    """Look up each entity row's features as of its ``event_timestamp``.

    A value counts if its event, and its ``created_timestamp`` where the table has one, are at
    or before the entity's time and its event is at most ``ttl_s`` old. Of those the one with
    the latest event counts, of equal events the one created last, of equal rows the last.

    Args:
        entities: The view's keys, ``event_timestamp`` (UTC, microseconds) and `ROW`. Rows may
            repeat, come in any order, and have null keys, which match nothing.
        values: The view's table.
        view: Its keys, features and time to live.

    Returns:
        `ROW` and the view's features, one row per entity row, in any order.
    """
    names = [item.name for item in view.features]
    keys = list(view.keys)
    left = entities.select(
        ROW,
        *(pl.col(key).cast(values.schema[key]) for key in keys),
        pl.col(EVENT_TIMESTAMP).alias(_KNOWN),
    ).sort(_KNOWN)
    joined = left.join_asof(
        _best_known(values, keys, names).sort(_KNOWN),
        on=_KNOWN,
        by=keys,
        strategy="backward",
        check_sortedness=False,
    )
    if view.ttl_s is not None:
        age = pl.col(_KNOWN) - pl.col(_EVENT)
        alive = age <= pl.duration(microseconds=round(view.ttl_s * 1e6))
        joined = joined.with_columns(
            pl.when(alive).then(pl.col(name)).alias(name) for name in names
        )
    return joined.select(ROW, *names)


def _best_known(values: pl.DataFrame, keys: list[str], names: list[str]) -> pl.DataFrame:
    """Reduce to the moments at which an entity's best known row changes.

    A row that is created after its event is known only from then on, and does not replace a
    row with a later event that is known already.
    """
    values = values.drop_nulls(keys)
    if CREATED_TIMESTAMP not in values.columns:
        return values.select(
            *keys,
            *names,
            pl.col(EVENT_TIMESTAMP).alias(_EVENT),
            pl.col(EVENT_TIMESTAMP).alias(_KNOWN),
        )
    created = pl.col(CREATED_TIMESTAMP).fill_null(pl.col(EVENT_TIMESTAMP))
    rows = values.select(
        *keys,
        *names,
        pl.col(EVENT_TIMESTAMP).alias(_EVENT),
        created.alias(CREATED_TIMESTAMP),
        pl.max_horizontal(EVENT_TIMESTAMP, created).alias(_KNOWN),
    ).sort(_KNOWN, _EVENT, CREATED_TIMESTAMP, maintain_order=True)
    return rows.filter(pl.col(_EVENT) == pl.col(_EVENT).cum_max().over(keys)).drop(
        CREATED_TIMESTAMP
    )
