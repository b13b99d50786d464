from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from heliostat.cli import app
from heliostat.data.tables import Catalog
from heliostat.lineage.events import Lineage, Node
from heliostat.serving.exposures import Spool

RUNNER = CliRunner()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One table: ids 1 and 2, then 2 updated and 3 added, in three files."""
    catalog = Catalog(tmp_path)
    catalog.write("raw/t", pl.DataFrame({"id": [1, 2], "v": ["a", "b"]}), run_id="one")
    catalog.write("raw/t", pl.DataFrame({"id": [1, 2], "v": ["a", "x"]}), run_id="two")
    catalog.write("raw/t", pl.DataFrame({"id": [3], "v": ["c"]}), run_id="three", mode="append")
    return tmp_path


def call(folder: Path, *words: str) -> str:
    done = RUNNER.invoke(app, ["table", *words, "--at", str(folder)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_tables_are_listed_with_sizes_and_what_upkeep_would_save(folder: Path) -> None:
    """The same in words and as JSON."""
    text = call(folder, "list")
    (row,) = json.loads(call(folder, "list", "--json"))

    size = row.pop("bytes")
    assert row == {
        "table": "raw/t",
        "version": 2,
        "rows": 3,
        "files": 2,
        "files_after_optimize": 1,
        "bytes_freed_by_vacuum": 0,
        "cited_versions": [],
    }
    assert size > 0
    assert text.splitlines()[1].split()[:4] == ["raw/t", "2", "3", "2"]


def test_a_table_is_shown_with_its_columns_and_history(folder: Path) -> None:
    """Versions with their writers, the newest first."""
    shown = json.loads(call(folder, "show", "raw/t", "--version", "0", "--json"))
    history = json.loads(call(folder, "history", "raw/t", "--json"))

    assert (shown["rows"], shown["run"], shown["columns"]) == (
        2,
        "one",
        {"id": "Int64", "v": "String"},
    )
    assert [(item["version"], item["operation"], item["run"]) for item in history] == [
        (2, "append", "three"),
        (1, "overwrite", "two"),
        (0, "overwrite", "one"),
    ]
    assert "columns" not in call(folder, "show", "raw/t")
    assert call(folder, "history", "raw/t").count("\n") == 4


def test_versions_are_compared_restored_and_compacted(folder: Path) -> None:
    """What diff shows is what restore undoes."""
    found = json.loads(call(folder, "diff", "raw/t", "0", "2", "--key", "id", "--json"))
    text = call(folder, "diff", "raw/t", "0", "2", "--key", "id")

    assert found["examples"] == {
        "inserted": [{"id": 3, "v": "c"}],
        "deleted": [],
        "updated": [{"id": 2, "v": "x"}],
    }
    assert "rows updated: 1" in text
    assert call(folder, "optimize", "raw/t").startswith("raw/t: 2 files are 1 in version 3")
    assert call(folder, "restore", "raw/t", "0") == "raw/t: version 4 holds what version 0 held\n"
    assert Catalog(folder).read("raw/t")["v"].to_list() == ["a", "b"]


def test_vacuum_says_what_would_go_and_removes_it_when_told(folder: Path) -> None:
    """Without --yes nothing is removed."""
    for flag, removed in (((), False), (("--yes",), True)):
        found = json.loads(call(folder, "vacuum", "raw/t", "--days", "0", "--json", *flag))
        assert (len(found["files"]), found["removed"], found["oldest_version"]) == (1, removed, 2)

    assert "0 files, 0 B would go" in call(folder, "vacuum", "raw/t", "--days", "0")


def test_a_table_that_is_not_there_exits_with_2(folder: Path) -> None:
    """The error names the nearest one."""
    done = RUNNER.invoke(app, ["table", "show", "raw/s", "--at", str(folder)])

    assert str(done.exception) == "table = 'raw/s': must exist; did you mean 'raw/t'?"


def test_a_contract_is_drafted_from_a_file_of_any_kind(tmp_path: Path) -> None:
    """The same draft from CSV, JSON lines and Parquet, as Python or as JSON."""
    rows = pl.DataFrame({"id": [1, 2], "Mail": ["a@b.org", None]})
    rows.write_csv(tmp_path / "rows.csv")
    rows.write_ndjson(tmp_path / "rows.json")
    rows.write_parquet(tmp_path / "rows.parquet")

    for kind in ("csv", "json", "parquet"):
        words = ["contract", "infer", str(tmp_path / f"rows.{kind}"), "--table", "raw/people"]
        assert RUNNER.invoke(app, words).output == (
            "Contract(\n    table='raw/people',\n    keys=('id',),\n    columns=(\n"
            "        Column(name='id', dtype='int64', minimum=1.0, maximum=2.0),\n"
            "        Column(name='mail', dtype='string', header='Mail', nullable=True, "
            "pii='email'),\n    ),\n)\n"
        )
        assert json.loads(RUNNER.invoke(app, [*words, "--json"]).output)["keys"] == ["id"]


def test_lineage_of_a_prediction_goes_up_and_of_a_file_goes_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    """Each in one command: from a request to files and code, from a file to its predictions."""
    monkeypatch.setenv("HELIOSTAT_HOME", str(tmp_path))
    monkeypatch.chdir(repository)
    lineage = Lineage(tmp_path / "lineage", revision="abc")
    file = Node(kind="file", name="/data/rows.csv", version="f00d")
    model = Node(kind="model", name="churn", version="2")
    lineage.emit("COMPLETE", "train", "r", inputs=[file], outputs=[model])
    spool = Spool(tmp_path / "spool" / "exposures", "gateway")
    for number in range(3):
        spool.add(
            {"request_id": f"r.{number}", "model": "churn", "version": "2", "variant": "stable",
             "epoch": 1, "unit": "u", "fallback": False, "latency_ms": 1.0, "features": {},
             "scores": [0.5]}
        )  # fmt: skip
    spool.flush()

    up = RUNNER.invoke(app, ["lineage", "up", "r.1"], catch_exceptions=False)
    down = json.loads(RUNNER.invoke(app, ["lineage", "down", "rows.csv", "--json"]).output)

    assert up.output == ("r.1: model:churn@2\n  file:/data/rows.csv@f00d  by train (code abc)\n")
    assert [step["node"] for step in down["steps"]] == ["model:churn@2"]
    assert down["predictions"] == {"model:churn@2": 3}
    assert "must be known" in str(RUNNER.invoke(app, ["lineage", "up", "nobody"]).exception)
