"""A view with a feature of each usual type, and rows for it: for tests of online stores."""

from __future__ import annotations

from typing import Any

import polars as pl

from heliostat.features.definitions import Feature, FeatureView


def compute(tables: Any) -> pl.DataFrame:
    """Stand in for a view's function; these tests give its result directly."""
    return tables["t"]


def view(**parts: Any) -> FeatureView:
    """The view, with these parts of it changed."""
    given: dict[str, Any] = {
        "name": "v", "keys": ("id",), "inputs": ("t",), "compute": compute, "ttl_s": 60.0,
        "features": (
            Feature(name="real", dtype="float64"), Feature(name="whole", dtype="int64"),
            Feature(name="text", dtype="string"),
        ),
    }  # fmt: skip
    return FeatureView(**(given | parts))


def frame(*rows: tuple[Any, ...]) -> pl.DataFrame:
    """Rows of key, event and features."""
    schema = {
        "id": pl.String, "event_timestamp": pl.Datetime("us", "UTC"), "real": pl.Float64,
        "whole": pl.Int64, "text": pl.String,
    }  # fmt: skip
    return pl.DataFrame(list(rows), schema=schema, orient="row")
