from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from heliostat.data import vectors
from heliostat.data.contract import Column, Contract, Freshness
from heliostat.data.ingest import ingest
from heliostat.data.merge import merge
from heliostat.data.on_ray import OnRay
from heliostat.data.pii import tags
from heliostat.data.sql_sources import SqliteQuery
from heliostat.data.tables import Catalog
from heliostat.data.upkeep import optimize
from heliostat.errors import GateRefused

NOW = datetime(2026, 1, 2, tzinfo=UTC)
COLUMNS = (
    Column(name="id", dtype="int64"),
    Column(name="kind", dtype="string", values=("a", "b")),
    Column(name="mail", dtype="string", nullable=True, max_null_ratio=0.5, pii="email"),
)
CONTRACT = Contract(
    table="raw/t", keys=("id",), columns=COLUMNS, partition_by=("kind",), max_quarantined_ratio=0.5
)


@pytest.fixture
def source(tmp_path: Path) -> SqliteQuery:
    """1,000 rows; every tenth repeats the id before it, and one kind is unknown."""
    path = tmp_path / "db.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (id, kind, mail)")
        connection.executemany(
            "INSERT INTO t VALUES (?, ?, ?)",
            [
                (row - (row % 10 == 9), "c" if row == 500 else "ab"[row % 2], f"p{row}@x.org")
                for row in range(1_000)
            ],
        )
    return SqliteQuery(path=str(path), query="SELECT * FROM t ORDER BY id", chunk_rows=150)


@pytest.mark.usefixtures("ray_session")
def test_a_query_is_ingested_with_every_row_accounted_for(
    tmp_path: Path, source: SqliteQuery
) -> None:
    """Repeats are found over chunks although the query is asked once; no copy is left behind."""
    catalog = Catalog(tmp_path / "tables")

    report = ingest(source, CONTRACT, catalog, run_id="r", now=NOW)

    assert (report.rows_read, report.rows_written, report.rows_quarantined) == (1_000, 899, 101)
    assert report.reasons == {"id: must be unique": 100, "kind: must be one of a, b": 1}
    rows = catalog.read("raw/t")
    assert (rows.height, rows["id"].n_unique()) == (899, 899)
    assert catalog.read("raw/t", where={"kind": ["b"]})["kind"].unique().to_list() == ["b"]
    assert tags(catalog, "raw/t") == {"mail": "email"}
    folder = tmp_path / "tables" / "raw" / "t"
    named = {file.path for file in catalog.active("raw/t")}
    assert {path.name for path in folder.glob("*.parquet")} == named
    assert not list(folder.glob("_heliostat/spool-*/*"))
    assert "1,000 rows read = 899 written" in (folder / "_heliostat/reports/r.html").read_text()
    assert catalog.dataset("raw/t").count() == 899


@pytest.mark.usefixtures("ray_session")
def test_a_rule_about_the_whole_table_stops_the_run(tmp_path: Path, source: SqliteQuery) -> None:
    """Nothing is visible; the error says what was seen and what is needed."""
    catalog = Catalog(tmp_path / "tables")
    stale = Contract(
        table="raw/t",
        columns=(
            Column(name="id", dtype="int64"),
            Column(name="at", header="moment", dtype="timestamp"),
        ),
        freshness=Freshness(column="at", max_age_s=60),
    )
    old = SqliteQuery(path=source.path, query="SELECT id, '2026-01-01T00:00:00Z' AS moment FROM t")

    with pytest.raises(GateRefused) as caught:
        ingest(old, stale, catalog, run_id="r", now=NOW)

    assert str(caught.value) == (
        "table raw/t stays where it is: newest at is 2026-01-01 00:00:00+00:00, 86400 s old, "
        "needs at most 60 s old"
    )
    assert catalog.names() == []


@pytest.mark.usefixtures("ray_session")
def test_merge_and_optimize_work_on_files_as_ray_tasks(tmp_path: Path) -> None:
    """The same result as in one process."""
    results: list[Any] = []
    for name, tasks in (("here", None), ("there", OnRay(max_at_once=2))):
        catalog = Catalog(tmp_path / name)
        for part in range(6):
            rows = pl.DataFrame({"id": range(10 * part, 10 * part + 10), "v": [0] * 10})
            catalog.write("t", rows, run_id=f"w{part}", mode="append")
        report = merge(
            catalog, "t", pl.DataFrame({"id": [5, 25, 99], "v": [1, 1, 1]}), keys=["id"],
            run_id="m", tasks=tasks,
        )  # fmt: skip
        kept = optimize(catalog, "t", run_id="o", tasks=tasks)
        results.append((report, kept.files_after, catalog.read("t").sort("id").rows()))

    assert results[0] == results[1]
    assert results[0][1] == 1


def turned(batch: pa.Table) -> list[list[float]]:
    """A vector that points where the row's angle says."""
    return [[10.0 - angle, float(angle)] for angle in batch["angle"].to_pylist()]


@pytest.mark.usefixtures("ray_session")
def test_rows_are_found_by_nearest_vector(tmp_path: Path) -> None:
    """Embedded on Ray Data; built after an older version it holds the newest one only."""
    pytest.importorskip("lancedb", reason="vectors need LanceDB: pip install lancedb")
    catalog = Catalog(tmp_path / "tables")
    catalog.write("t", pl.DataFrame({"name": ["x", "y"], "angle": [0, 10]}), run_id="a")
    catalog.write("t", pl.DataFrame({"name": ["z"], "angle": [5]}), run_id="b", mode="append")

    older = vectors.with_vectors(catalog.read("t", 0).to_arrow(), turned)
    vectors.index([older], "t", tmp_path / "vectors", version=0)
    built = vectors.build(catalog, "t", tmp_path / "vectors", embed=turned)

    found = vectors.search(tmp_path / "vectors", "t", [1.0, 6.0], num_rows=2)
    assert (built.version, built.rows, built.width) == (1, 3, 2)
    assert [row["name"] for row in found] == ["y", "z"]
    assert found[0]["distance"] < found[1]["distance"] < 0.3
