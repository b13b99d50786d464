from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime

import numpy as np
import pytest

from heliostat.data.block_records import Block, RefusedRow, pack, unpack
from heliostat.data.profile import ColumnProfile
from heliostat.data.staging import StagedFile

BLOCK = Block(
    file=1,
    number=2,
    num_bytes=30,
    num_lines=4,
    num_rows=3,
    refused=(RefusedRow(line=0, kind="k", reason="r", raw="\\xff"),),
    staged=(StagedFile(path="a", num_rows=2, size_bytes=9, partition=(("d", None), ("e", "1"))),),
    profile={
        "n": ColumnProfile(num_rows=2, num_nulls=0, low=1, high=2, sample=(1.0, 2.0)),
        "d": ColumnProfile(num_rows=2, num_nulls=1, low=date(2026, 1, 2), high=date(2026, 1, 3)),
        "at": ColumnProfile(
            num_rows=2, num_nulls=0, low=datetime(2026, 1, 2, tzinfo=UTC),
            high=datetime(2026, 1, 2, 0, 0, 0, 7, tzinfo=UTC),
        ),
        "s": ColumnProfile(num_rows=2, num_nulls=2, low=None, high=None),
    },
    key_hashes=np.array([[1, 2**64 - 1], [3, 4]], dtype=np.uint64),
    key_lines=np.array([1, 3]),
)  # fmt: skip


@pytest.mark.parametrize("keys", [2, 0])
def test_a_block_comes_back_as_it_was(keys: int) -> None:
    """With its types: a day stays a day, and a moment keeps its microseconds and its zone."""
    block = replace(BLOCK, key_hashes=BLOCK.key_hashes[:keys], key_lines=BLOCK.key_lines[:keys])

    found = unpack(pack(block))

    assert found is not None
    np.testing.assert_array_equal(found.key_hashes, block.key_hashes)
    np.testing.assert_array_equal(found.key_lines, block.key_lines)
    empty = {"key_hashes": None, "key_lines": None}
    assert replace(found, **empty) == replace(block, **empty)


@pytest.mark.parametrize("length", [0, 1, 40, -1])
def test_a_block_that_was_cut_is_none(length: int) -> None:
    """A kill may leave any part of it."""
    assert unpack(pack(BLOCK)[:length]) is None
