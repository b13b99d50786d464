from __future__ import annotations

import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from heliostat.data.hot_keys import aggregate, join
from tests.unit.data.skewed import KEYS, WANTED, expected, skewed


@pytest.mark.usefixtures("ray_session")
def test_rows_of_a_frequent_key_are_joined_like_any_other() -> None:
    """Counted, then joined: as Polars does at once; no task gets the frequent key whole."""
    import ray.data

    rows = skewed()
    shops = pl.DataFrame({"shop": range(400), "day": [n % 3 for n in range(400)]}).with_columns(
        name=pl.lit("shop ") + pl.col("shop").cast(pl.String)
    )
    blocks = [rows[first : first + 2_000].to_arrow() for first in range(0, rows.height, 2_000)]

    joined = join(
        ray.data.from_arrow(blocks), ray.data.from_arrow(shops.to_arrow()), KEYS, num_partitions=2
    )

    assert_frame_equal(
        _frame(joined, ["row"]).select(*rows.columns, "name"),
        rows.join(shops, on=KEYS, how="left").sort("row"),
        check_dtypes=False,
    )


@pytest.mark.proof
@pytest.mark.usefixtures("ray_session")
def test_groups_of_a_frequent_key_are_counted_like_any_other() -> None:
    """The whole way through Ray's shuffle; each step of it has a test of its own."""
    import ray.data

    rows = skewed()
    blocks = [rows[first : first + 2_000].to_arrow() for first in range(0, rows.height, 2_000)]

    counted = aggregate(ray.data.from_arrow(blocks), KEYS, WANTED, num_partitions=2)

    assert_frame_equal(_frame(counted, KEYS), expected(rows), check_dtypes=False)


def _frame(dataset, by: list[str]) -> pl.DataFrame:
    blocks = list(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))
    frame = pl.from_arrow(pa.concat_tables(blocks, promote_options="permissive"))
    assert isinstance(frame, pl.DataFrame)
    return frame.sort(by)
