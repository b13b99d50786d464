"""Rows of a view as the embedded store keeps them: one cell for each entity and feature."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from heliostat.features import wire
from heliostat.features.definitions import CREATED_TIMESTAMP, EVENT_TIMESTAMP, FeatureView

if TYPE_CHECKING:
    import polars as pl

Cell = tuple[bytes, str, bytes, int]
"""Entity key, feature, value and event time in microseconds, as they are stored."""


def newest_rows(view: FeatureView, frame: pl.DataFrame) -> pl.DataFrame:
    """Keep each entity's row with the latest event, of equal ones the latest created or last."""
    order = [EVENT_TIMESTAMP]
    if CREATED_TIMESTAMP in frame.columns:
        order.append(CREATED_TIMESTAMP)
    keys = list(view.keys)
    rows = frame.drop_nulls(keys)
    if rows.select(keys).n_unique() < rows.height:
        rows = rows.sort(order, maintain_order=True, nulls_last=False).unique(keys, keep="last")
    return rows.sort(keys)


def encode(view: FeatureView, rows: pl.DataFrame) -> Iterator[Cell]:
    """Encode rows without null keys: one cell per row and feature, row by row."""
    encode_key = wire.key_encoder(view.keys)
    events = rows[EVENT_TIMESTAMP].dt.epoch("us").to_list()
    features = sorted(view.features, key=lambda item: item.name)
    names = [item.name for item in features]
    columns = [map(wire.ENCODERS[item.dtype], rows[item.name].to_list()) for item in features]
    for key, event, *values in zip(
        rows.select(view.keys).iter_rows(), events, *columns, strict=True
    ):
        entity = encode_key(key)
        for name, value in zip(names, values, strict=True):
            yield entity, name, value, event
