"""Pure: join feature values to entity rows as they were known at each row's time."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from heliostat.features.definitions import CREATED_TIMESTAMP, EVENT_TIMESTAMP, FeatureView

ROW = "__row"
"""Number of the entity row, by which joined values find back to it."""

UTC_US = pl.Datetime("us", "UTC")

_KNOWN = "__known"
_EVENT = "__event"


def join(entities: pl.DataFrame, values: pl.DataFrame, view: FeatureView) -> pl.DataFrame:
    """Look up each entity row's features as of its ``event_timestamp``.

    See `as_of` for which value counts.

    Args:
        entities: The view's keys, ``event_timestamp`` (UTC, microseconds) and `ROW`. Rows may
            repeat, come in any order, and have null keys, which match nothing.
        values: The view's table.
        view: Its keys, features and time to live.

    Returns:
        `ROW` and the view's features, one row per entity row, in any order.
    """
    names = [item.name for item in view.features]
    left = entities.select(
        ROW,
        *(pl.col(key).cast(values.schema[key]) for key in view.keys),
        EVENT_TIMESTAMP,
    ).sort(EVENT_TIMESTAMP)
    ttl_us = None if view.ttl_s is None else round(view.ttl_s * 1e6)
    return as_of(left, values, keys=view.keys, names=names, ttl_us=ttl_us).select(ROW, *names)


def as_of(
    entities: pl.DataFrame,
    values: pl.DataFrame,
    *,
    keys: Sequence[str],
    names: Sequence[str],
    ttl_us: int | None,
    hide_until_created: bool = True,
) -> pl.DataFrame:
    """Add the columns `names` to entity rows, as they were known at each row's time.

    A value counts if its event, and its ``created_timestamp`` where there is one, are at or
    before the entity's time and its event is at most `ttl_us` old. Of those the one with the
    latest event counts, of equal events the one created last, of equal rows the last.

    Args:
        entities: The keys and ``event_timestamp``, by which the rows are ordered.
        values: The keys in the same types, ``event_timestamp`` in the same type, `names`, and
            maybe ``created_timestamp``.
        keys: Columns that must be equal; null is equal to nothing.
        names: Columns to look up; none of them a column of `entities`.
        ttl_us: Microseconds; None means for ever.
        hide_until_created: False takes ``created_timestamp`` for a tie-break only, as Feast
            does unless told otherwise: rows that were written later leak into the past.

    Returns:
        All rows of `entities` in their order.
    """
    known = _known(values, keys, names, hide_until_created=hide_until_created)
    joined = entities.join_asof(
        known,
        left_on=EVENT_TIMESTAMP,
        right_on=_KNOWN,
        by=list(keys),
        strategy="backward",
        check_sortedness=False,
    )
    if ttl_us is not None:
        kind = entities.schema[EVENT_TIMESTAMP]
        assert isinstance(kind, pl.Datetime)
        oldest = pl.duration(microseconds=ttl_us, time_unit=kind.time_unit)
        alive = pl.col(EVENT_TIMESTAMP) - pl.col(_EVENT) <= oldest
        joined = joined.with_columns(pl.when(alive).then(pl.col(list(names))))
    return joined.select(*entities.columns, *names)


def _known(
    values: pl.DataFrame, keys: Sequence[str], names: Sequence[str], *, hide_until_created: bool
) -> pl.DataFrame:
    """Reduce to the moments at which an entity's best known row changes, in their order.

    A row that is created after its event is known only from then on, and does not replace a
    row with a later event that is known already.
    """
    values = values.drop_nulls([*keys, EVENT_TIMESTAMP])
    event = pl.col(EVENT_TIMESTAMP)
    if CREATED_TIMESTAMP not in values.columns:
        rows = values.sort(event, maintain_order=True)
        return rows.select(*keys, *names, event.alias(_EVENT), event.alias(_KNOWN))
    created = pl.col(CREATED_TIMESTAMP).fill_null(event)
    known = pl.max_horizontal(event, created) if hide_until_created else event
    rows = values.select(
        *keys, *names, event.alias(_EVENT), created.alias(CREATED_TIMESTAMP), known.alias(_KNOWN)
    ).sort(_KNOWN, _EVENT, CREATED_TIMESTAMP, maintain_order=True)
    if hide_until_created:
        rows = rows.filter(pl.col(_EVENT) == pl.col(_EVENT).cum_max().over(list(keys)))
    return rows.drop(CREATED_TIMESTAMP)
