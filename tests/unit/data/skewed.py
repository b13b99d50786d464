"""Rows of which nine in ten have one key, and what is wanted of each group of them."""

from __future__ import annotations

import numpy as np
import polars as pl

from heliostat.data.hot_keys import Aggregate

KEYS = ["shop", "day"]
WANTED = [Aggregate(column="value", how=how, name=how) for how in ("sum", "count", "min", "max")]


def skewed() -> pl.DataFrame:
    """8,000 rows, some without a value; one key is null."""
    rng = np.random.default_rng(3)
    shop = np.where(rng.random(8_000) < 0.9, 0, rng.integers(0, 500, 8_000))
    return pl.DataFrame({"row": range(8_000), "shop": shop, "day": shop % 3}).with_columns(
        pl.when(pl.col("row") % 7 != 0).then(pl.col("row") % 11).alias("value"),
        pl.when(pl.col("row") != 5).then(pl.col("shop")).alias("shop"),
    )


def expected(rows: pl.DataFrame) -> pl.DataFrame:
    """What Polars makes of all of them at once."""
    value = pl.col("value")
    return rows.group_by(KEYS).agg(
        value.sum().alias("sum"), value.count().alias("count"),
        value.min().alias("min"), value.max().alias("max"),
    ).sort(KEYS)  # fmt: skip
