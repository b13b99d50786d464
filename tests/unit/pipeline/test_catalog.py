"""A run reads the versions it pinned, and labels to come stay out of its reach."""

from __future__ import annotations

import pickle
from pathlib import Path

import polars as pl
import pytest

from heliostat.data.tables import Catalog
from heliostat.pipeline.catalog import RunCatalog, SealedTable


def test_a_sealed_table_cannot_be_opened_in_any_way(tmp_path: Path) -> None:
    """Not by reading, not for its files or schema, and not after a trip to a worker."""
    Catalog(tmp_path).write("labels_replay", pl.DataFrame({"late": [1]}), run_id="r")
    Catalog(tmp_path).write("labels", pl.DataFrame({"late": [0]}), run_id="r")
    sealed = pickle.loads(pickle.dumps(RunCatalog(tmp_path, frozenset({"labels_replay"}))))

    for opening in (sealed.read, sealed.files, sealed.schema, sealed.version, sealed.num_rows):
        with pytest.raises(SealedTable, match="table labels_replay: is sealed"):
            opening("labels_replay")
    assert sealed.read("labels")["late"].to_list() == [0]


def test_a_pinned_version_stays_although_the_table_moves_on(tmp_path: Path) -> None:
    """Somebody else's write between two stages changes nothing for this run."""
    for run, value in (("one", 1), ("two", 2)):
        Catalog(tmp_path).write("rows", pl.DataFrame({"x": [value]}), run_id=run)
    pinned = RunCatalog(tmp_path, pinned={"rows": 0})

    assert pinned.read("rows")["x"].to_list() == [1]
    assert pinned.read("rows", 1)["x"].to_list() == [2]
    assert pinned.version("rows") == 0
    assert pinned.num_rows("rows") == 1
    assert Catalog(tmp_path).version("rows") == 1
