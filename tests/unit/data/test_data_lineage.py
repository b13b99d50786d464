"""A catalog that has a lineage tells it what its versions are made from."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from heliostat.data import origins
from heliostat.data.merge import merge
from heliostat.data.restore import restore
from heliostat.data.sinks import FileSink, SqliteSink, copy
from heliostat.data.sources import CsvFiles
from heliostat.data.tables import Catalog
from heliostat.data.upkeep import optimize
from heliostat.lineage.events import Lineage
from heliostat.lineage.graph import Graph


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    lineage = Lineage(tmp_path / "lineage", tables=tmp_path / "tables")
    return Catalog(tmp_path / "tables", lineage=lineage)


def graph(tmp_path: Path) -> Graph:
    return Graph.read(tmp_path / "lineage" / "events.jsonl")


def test_each_version_is_made_from_the_one_whose_rows_it_holds(
    catalog: Catalog, tmp_path: Path
) -> None:
    """Appended, merged, put together, restored; one that replaces all rows has no such origin."""
    shop = catalog.below("shop")
    shop.write("t", pl.DataFrame({"id": [1]}), run_id="a")
    shop.write("t", pl.DataFrame({"id": [2]}), run_id="b", mode="append")
    merge(shop, "t", pl.DataFrame({"id": [2, 3]}), keys=["id"], run_id="c")
    optimize(shop, "t", run_id="d")
    shop.write("t", pl.DataFrame({"id": [9]}), run_id="e")
    restore(shop, "t", 3, run_id="f")

    made = graph(tmp_path).made_from
    assert {node: list(origin.items()) for node, origin in made.items()} == {
        "table:shop/t@0": [],
        "table:shop/t@1": [("table:shop/t@0", ("append t", None))],
        "table:shop/t@2": [("table:shop/t@1", ("merge t", None))],
        "table:shop/t@3": [("table:shop/t@2", ("optimize t", None))],
        "table:shop/t@4": [],
        "table:shop/t@5": [("table:shop/t@3", ("restore of version 3 t", None))],
    }


def test_derived_tables_and_files_are_told(catalog: Catalog, tmp_path: Path) -> None:
    """A file by what it holds, so that another one of its name is another thing."""
    path = tmp_path / "rows.csv"
    path.write_text("id\n1\n")
    source = CsvFiles(paths=(str(path),))
    catalog.write("raw", pl.DataFrame({"id": [1]}), run_id="r")
    origins.tell(catalog, "raw", source, "r", 0)
    catalog.write("derived", pl.DataFrame({"id": [1]}), run_id="r", inputs={"raw": 0})

    digest = origins.files_digest([str(path)])
    assert [step.node for step in graph(tmp_path).up(["table:derived@0"])] == [
        "table:raw@0", f"file:{path}@{digest}",
    ]  # fmt: skip


def test_a_version_that_was_committed_before_a_kill_is_told_by_the_next_try(
    catalog: Catalog, tmp_path: Path
) -> None:
    """Between the commit and its event a process may end."""
    untold = Catalog(catalog.root)
    untold.write("t", pl.DataFrame({"id": [1]}), run_id="r")

    catalog.write("t", pl.DataFrame({"id": [1]}), run_id="r")

    assert graph(tmp_path).nodes() == ["table:t@0"]


def test_a_copy_is_told_and_what_is_ingested_from_it_goes_on_from_there(
    catalog: Catalog, tmp_path: Path
) -> None:
    """A file by its content; a table of a database by who wrote it."""
    catalog.write("t", pl.DataFrame({"id": [1]}), run_id="a")
    path, database = str(tmp_path / "t.csv"), str(tmp_path / "t.db")

    copy(catalog, "t", FileSink(path=path, kind="csv"))
    copy(catalog, "t", SqliteSink(path=database, table="t"), version=0)
    catalog.write("again", pl.DataFrame({"id": [1]}), run_id="b")
    origins.tell(catalog, "again", CsvFiles(paths=(path,)), "b", 0)

    found = graph(tmp_path)
    file = f"file:{path}@{origins.files_digest([path])}"
    assert [step.node for step in found.up(["table:again@0"])] == [file, "table:t@0"]
    (place,) = found.find(f"sink:{database}/t")
    assert [step.node for step in found.up([place])] == ["table:t@0"]
