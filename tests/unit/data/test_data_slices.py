"""A version in slices is the version."""

from __future__ import annotations

import pickle
from pathlib import Path

import polars as pl
import pytest

from heliostat.data.slices import cut
from heliostat.data.tables import Catalog
from heliostat.errors import ConfigError


def _table(root: Path) -> Catalog:
    """Two files of 5 and 3 rows; only the second has the column ``b``."""
    catalog = Catalog(root)
    catalog.write("t", pl.DataFrame({"a": [0, 1, 2, 3, 4]}), run_id="one")
    more = pl.DataFrame({"a": [5, 6, 7], "b": ["x", "y", "z"]})
    catalog.write("t", more, run_id="two", mode="append")
    return catalog


def test_slices_together_are_the_version_in_its_order(tmp_path: Path) -> None:
    """Also after a trip to a worker, and where a file lacks a column that came later."""
    catalog = _table(tmp_path)
    rows = pickle.loads(pickle.dumps(cut(catalog, "t", columns=["b", "a"], max_rows=2)))

    parts = [rows.read(index) for index in range(len(rows.slices))]

    assert [part.height for part in parts] == [2, 2, 1, 2, 1]
    assert pl.concat(parts).equals(catalog.read("t", columns=["b", "a"]))
    assert (rows.version, rows.num_rows) == (catalog.version("t"), 8)


def test_an_older_version_keeps_its_slices(tmp_path: Path) -> None:
    """What was added since is not seen."""
    rows = cut(_table(tmp_path), "t", 0, columns=["a"], max_rows=100)

    assert [rows.read(index)["a"].to_list() for index in range(len(rows.slices))] == [
        [0, 1, 2, 3, 4]
    ]


def test_an_unknown_column_is_refused(tmp_path: Path) -> None:
    """Before anything is read, with the nearest name."""
    with pytest.raises(ConfigError, match=r"table t\.columns = 'aa': must exist"):
        cut(_table(tmp_path), "t", columns=["aa"], max_rows=2)
