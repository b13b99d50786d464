from __future__ import annotations

import polars as pl
from polars.testing import assert_frame_equal

from heliostat.data.hot_keys import per_block, put_together
from tests.unit.data.skewed import KEYS, WANTED, expected, skewed


def test_blocks_make_one_row_of_each_group_and_these_make_the_whole() -> None:
    """However frequent a key: a block sends one row of it, and all of a group to one part."""
    rows = skewed()
    blocks = [
        pl.DataFrame(per_block(rows[first : first + 2_000].to_arrow(), KEYS, WANTED, 2))
        for first in range(0, rows.height, 2_000)
    ]
    for block in blocks:
        assert block.select(KEYS).n_unique() == block.height
    sent = pl.concat(blocks)
    parts = sent.partition_by("__bucket")
    assert len(parts) == 2
    assert sent.select(*KEYS, "__bucket").n_unique() == sent.select(KEYS).n_unique()

    whole = pl.concat([pl.DataFrame(put_together(part.to_arrow(), KEYS, WANTED)) for part in parts])

    assert_frame_equal(whole.sort(KEYS), expected(rows), check_dtypes=False)
