"""Pure: bring what a view computes, and the entity rows of a training set, into their form."""

from __future__ import annotations

import polars as pl

from heliostat.config import require
from heliostat.errors import ConfigError, nearest
from heliostat.features.definitions import (
    CREATED_TIMESTAMP,
    EVENT_TIMESTAMP,
    FeatureService,
    FeatureView,
)
from heliostat.features.point_in_time import UTC_US

DTYPES: dict[str, pl.DataType] = {
    "float64": pl.Float64(),
    "int64": pl.Int64(),
    "string": pl.String(),
}
"""Polars types of features."""


def view_rows(frame: object, view: FeatureView) -> tuple[pl.DataFrame, int]:
    """Check what `compute` returned and give it the view's columns and types.

    NaN becomes null, the one form of a missing value. Rows whose key is null can never be
    looked up; they are left out and counted.

    Returns:
        Rows ordered by keys and time, and how many had no key.

    Raises:
        ConfigError: No frame, a column is missing or extra, a type does not fit, or a row has
            no ``event_timestamp``.
    """
    where = f"view {view.name}.compute"
    if not isinstance(frame, pl.DataFrame):
        raise ConfigError(where, type(frame).__name__, "must return a polars.DataFrame")
    wanted = list(view.columns)
    if CREATED_TIMESTAMP in frame.columns:
        wanted.append(CREATED_TIMESTAMP)
    for name in wanted:
        require(
            name in frame.columns, f"{where}.columns", name, "must be returned",
            breaks=nearest(name, frame.columns),
        )  # fmt: skip
    for name in frame.columns:
        require(name in wanted, f"{where}.columns", name, "must be a key or feature of the view")
    moments = [name for name in wanted if name in {EVENT_TIMESTAMP, CREATED_TIMESTAMP}]
    casts = [
        *(_moment(frame, name, where) for name in moments),
        *(_value(frame[item.name], item.dtype, where) for item in view.features),
        *(_key(frame[key], key in view.integer_keys, where) for key in view.keys),
    ]
    rows = frame.with_columns(casts).select(wanted)
    missing = rows[EVENT_TIMESTAMP].null_count()
    require(
        missing == 0, f"{where}.{EVENT_TIMESTAMP}", None, "must never be null",
        breaks=f"{missing} rows have none",
    )  # fmt: skip
    kept = rows.drop_nulls(list(view.keys)).sort(*view.keys, EVENT_TIMESTAMP, maintain_order=True)
    return kept, rows.height - kept.height


def entity_rows(entities: pl.DataFrame, service: FeatureService) -> pl.DataFrame:
    """Check entity rows and bring their ``event_timestamp`` to UTC microseconds.

    Raises:
        ConfigError: A key or the time is missing, the time has no zone or is null somewhere,
            or a column has a feature's name.
    """
    where = f"training set {service.name}"
    for name in (*service.keys, *(item.name for item in service.requested), EVENT_TIMESTAMP):
        require(
            name in entities.columns, f"{where}.entities", name, "must be a column",
            breaks=nearest(name, entities.columns),
        )  # fmt: skip
    for item in service.features:
        require(
            item.name not in entities.columns,
            f"{where}.entities",
            item.name,
            "must not be a column, because a feature has this name",
        )
    moments = _moment(entities, EVENT_TIMESTAMP, where)
    require(
        moments.null_count() == 0, f"{where}.{EVENT_TIMESTAMP}", None, "must never be null",
        breaks=f"{moments.null_count()} rows have none",
    )  # fmt: skip
    return entities.with_columns(moments)


def _value(values: pl.Series, dtype: str, where: str) -> pl.Series:
    """Cast a feature without losing anything; NaN becomes null."""
    field = f"{where}.{values.name}"
    if values.dtype.is_float():
        values = values.fill_nan(None)
        fractions = (values != values.round()).sum() if dtype == "int64" else 0
        require(
            fractions == 0, field, str(values.dtype), "must be int64",
            breaks=f"{fractions} values have a fraction",
        )  # fmt: skip
    try:
        return values.cast(DTYPES[dtype], strict=True)
    except pl.exceptions.PolarsError as error:
        raise ConfigError(
            field, str(values.dtype), f"must be {dtype}", breaks=str(error).splitlines()[0]
        ) from error


def _key(values: pl.Series, whole: bool, where: str) -> pl.Series:
    require(
        values.dtype.is_integer() if whole else values.dtype == pl.String,
        f"{where}.{values.name}",
        str(values.dtype),
        "must be a whole number, as integer_keys says"
        if whole
        else "must be text; name it in integer_keys if it is a whole number",
    )
    return values.cast(pl.Int64) if whole else values


def _moment(frame: pl.DataFrame, name: str, where: str) -> pl.Series:
    kind = frame.schema[name]
    require(
        isinstance(kind, pl.Datetime) and kind.time_zone is not None,
        f"{where}.{name}",
        str(kind),
        "must be a moment with a time zone, as Datetime('us', 'UTC')",
    )
    return frame[name].dt.convert_time_zone("UTC").cast(UTC_US)
