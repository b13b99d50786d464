"""Rows and the positions they came from, committed together."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import polars as pl
import pytest

from heliostat.data import positions
from heliostat.data.positions import Moved, Stretch
from heliostat.data.tables import Catalog
from heliostat.errors import ConfigError


def rows(begin: int, end: int) -> pl.DataFrame:
    return pl.DataFrame({"number": range(begin, end)}, schema={"number": pl.Int64})


def put(catalog, begin, end, place="t/0", part=0):
    return positions.append(
        catalog, "events", rows(begin, end), {place: Stretch(begin=begin, end=end)},
        run_id="stream", part=part,
    )  # fmt: skip


def test_a_stretch_is_in_the_table_once_whoever_brings_it_again(tmp_path):
    """The second one is told who is ahead, and changes nothing."""
    catalog = Catalog(tmp_path)
    put(catalog, 5, 10)
    put(catalog, 10, 12)

    with pytest.raises(Moved, match="the position of t/0 is 12, and rows came that begin at 10"):
        put(catalog, 10, 15)

    assert catalog.read("events")["number"].sort().to_list() == list(range(5, 12))
    assert positions.positions(catalog, "events", ["t/0", "t/1"]) == {"t/0": 12}
    assert catalog.version("events") == 1


def test_a_position_moves_without_rows_and_many_move_at_once(tmp_path):
    """A batch that went to dead letters whole is done all the same."""
    catalog = Catalog(tmp_path)
    put(catalog, 0, 1)
    both = {"t/0": Stretch(begin=1, end=7), "t/1": Stretch(begin=40, end=41)}
    positions.append(catalog, "events", rows(0, 0), both, run_id="stream", part=1)

    assert positions.positions(catalog, "events", ["t/0", "t/1"]) == {"t/0": 7, "t/1": 41}
    assert catalog.num_rows("events") == 1
    assert catalog.history("events")[0].details["positions"] == {"t/0": [1, 7], "t/1": [40, 41]}


def test_of_writers_that_race_for_each_stretch_exactly_one_commits_it(tmp_path):
    """Four that all believe to own the place: no row twice, none missing."""
    catalog = Catalog(tmp_path)
    refused = []

    def write() -> None:
        at = 0
        while at < 60:
            try:
                put(catalog, at, at + 3, part=threading.get_native_id())
                at += 3
            except Moved:
                refused.append(at)
                at = positions.positions(catalog, "events", ["t/0"])["t/0"]

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

    assert catalog.read("events")["number"].sort().to_list() == list(range(60))


def test_of_writers_that_make_the_table_at_once_one_makes_it(tmp_path):
    """The others are told: a table that just came to be is no reason to add the rows again."""
    for turn in range(10):
        catalog, ready, told = Catalog(tmp_path / str(turn)), threading.Barrier(4), []

        def write(catalog=catalog, ready=ready, told=told) -> None:
            ready.wait()
            try:
                told.append(put(catalog, 0, 3, part=threading.get_native_id()))
            except Moved:
                told.append(None)

        writers = [threading.Thread(target=write) for _ in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()

        assert catalog.read("events")["number"].sort().to_list() == [0, 1, 2]
        assert sorted(told, key=str) == [0, None, None, None]


def test_a_writer_that_died_before_its_commit_leaves_nothing_to_see(tmp_path):
    """Its file lies in the folder; no version names it, and the stretch is still open."""
    code = (
        "import os, sys; from heliostat.data.tables import Catalog; import polars as pl\n"
        "Catalog(sys.argv[1]).stage('events', pl.DataFrame({'number': [0, 1]}), run_id='stream',"
        " part=0); os._exit(9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    catalog = Catalog(tmp_path)

    assert done.returncode == 9
    assert catalog.version("events") is None
    assert list((tmp_path / "events").glob("part-*"))
    put(catalog, 0, 2)
    assert catalog.read("events")["number"].to_list() == [0, 1]


def test_rows_can_be_read_by_a_condition_on_them(tmp_path):
    """What a writer needs to remember, without reading every column; none from no table."""
    catalog = Catalog(tmp_path)
    late = pl.col("number") >= 8
    assert positions.rows(catalog, "events", ["number"], late).is_empty()
    put(catalog, 5, 10)

    assert positions.rows(catalog, "events", ["number"], late)["number"].to_list() == [8, 9]


def test_a_stretch_that_ends_before_it_begins_is_refused():
    """It would move a position back."""
    with pytest.raises(ConfigError, match=r"stretch\.end = 3"):
        Stretch(begin=5, end=3)
