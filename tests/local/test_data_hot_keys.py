from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from heliostat.data.hot_keys import Aggregate, aggregate, join

KEYS = ["shop", "day"]


def _rows() -> pl.DataFrame:
    """8,000 rows, nine in ten of one key; one key is null."""
    rng = np.random.default_rng(3)
    shop = np.where(rng.random(8_000) < 0.9, 0, rng.integers(0, 500, 8_000))
    return pl.DataFrame({"row": range(8_000), "shop": shop, "day": shop % 3}).with_columns(
        pl.when(pl.col("row") % 7 != 0).then(pl.col("row") % 11).alias("value"),
        pl.when(pl.col("row") != 5).then(pl.col("shop")).alias("shop"),
    )


@pytest.mark.usefixtures("ray_session")
def test_a_frequent_key_is_counted_and_joined_like_any_other() -> None:
    """The same rows as Polars makes of all of them at once; no task gets the frequent key whole."""
    import ray.data

    rows = _rows()
    shops = pl.DataFrame({"shop": range(400), "day": [n % 3 for n in range(400)]}).with_columns(
        name=pl.lit("shop ") + pl.col("shop").cast(pl.String)
    )
    blocks = [rows[first : first + 2_000].to_arrow() for first in range(0, rows.height, 2_000)]
    wanted = [
        Aggregate(column="value", how=how, name=how) for how in ("sum", "count", "min", "max")
    ]

    counted = aggregate(ray.data.from_arrow(blocks), KEYS, wanted, num_partitions=2)
    joined = join(
        ray.data.from_arrow(blocks), ray.data.from_arrow(shops.to_arrow()), KEYS, num_partitions=2
    )

    expected = rows.group_by(KEYS).agg(
        pl.col("value").sum().alias("sum"), pl.col("value").count().alias("count"),
        pl.col("value").min().alias("min"), pl.col("value").max().alias("max"),
    )  # fmt: skip
    assert_frame_equal(_frame(counted, KEYS), expected.sort(KEYS), check_dtypes=False)
    assert_frame_equal(
        _frame(joined, ["row"]).select(*rows.columns, "name"),
        rows.join(shops, on=KEYS, how="left").sort("row"),
        check_dtypes=False,
    )


def _frame(dataset, by: list[str]) -> pl.DataFrame:
    blocks = list(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))
    frame = pl.from_arrow(pa.concat_tables(blocks, promote_options="permissive"))
    assert isinstance(frame, pl.DataFrame)
    return frame.sort(by)
