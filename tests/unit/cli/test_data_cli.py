from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from heliostat.cli import app
from heliostat.data.tables import Catalog

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
