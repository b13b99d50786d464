from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from heliostat.data import checkpoints, pii, reading, recent
from heliostat.data.citations import cite, release
from heliostat.data.diff import diff
from heliostat.data.restore import restore
from heliostat.data.tables import Catalog
from heliostat.data.upkeep import optimize, plan_vacuum, vacuum
from heliostat.errors import ConfigError


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path)


def appended(catalog: Catalog, number: int) -> None:
    for row in range(number):
        catalog.write("t", pl.DataFrame({"id": [row]}), run_id=f"r{row}", mode="append")


def later() -> datetime:
    return datetime.now(UTC) + timedelta(days=30)


def test_optimize_puts_files_together_and_changes_no_row(catalog: Catalog) -> None:
    """Order of rows and older versions stay; done again, it commits nothing."""
    appended(catalog, 7)
    before = catalog.read("t")

    report = optimize(catalog, "t", run_id="o")

    assert (report.files_before, report.files_after, report.version) == (7, 1, 7)
    assert_frame_equal(catalog.read("t"), before)
    assert_frame_equal(catalog.read("t", 6), before)
    assert optimize(catalog, "t", run_id="again").version == 7
    assert catalog.history("t", limit=1)[0].operation == "optimize"


def test_optimize_keeps_partitions_apart(catalog: Catalog) -> None:
    """Files of two values never become one."""
    for row in range(4):
        frame = pl.DataFrame({"id": [row, row], "kind": ["a", "b"]})
        catalog.write("t", frame, run_id=f"r{row}", mode="append", partition_by=["kind"])

    optimize(catalog, "t", run_id="o")

    assert [file.partition for file in catalog.active("t")] in (
        [(("kind", "a"),), (("kind", "b"),)],
        [(("kind", "b"),), (("kind", "a"),)],
    )
    assert catalog.read("t", where={"kind": ["a"]})["id"].to_list() == [0, 1, 2, 3]


def test_vacuum_keeps_what_models_cite_and_what_is_young(catalog: Catalog) -> None:
    """A cited version stays readable however old; all others beyond retention go."""
    for row in range(5):
        catalog.write("t", pl.DataFrame({"id": [row]}), run_id=f"r{row}")
    cite(catalog, "t", 1, by="model churn@3", now=datetime.now(UTC))
    cite(catalog, "t", 2, by="model churn@4", now=datetime.now(UTC))
    release(catalog, "t", 2, by="model churn@4")

    young = plan_vacuum(catalog, "t", now=datetime.now(UTC), retention=timedelta(days=7))
    old = plan_vacuum(catalog, "t", now=later(), retention=timedelta(days=7))
    vacuum(catalog, old)
    vacuum(catalog, old)

    assert young.files == ()
    assert len(old.files) == 3
    assert old.num_bytes > 0
    assert [item.by for item in old.cited] == ["model churn@3"]
    assert catalog.read("t", 1)["id"].to_list() == [1]
    assert catalog.read("t")["id"].to_list() == [4]
    assert len(list((catalog.root / "t").glob("*.parquet"))) == 2  # type: ignore[operator]


def test_vacuum_takes_old_orphans_and_leaves_files_that_wait_for_a_commit(
    catalog: Catalog,
) -> None:
    """A killed writer's file goes after a day; a running writer's stays."""
    appended(catalog, 1)
    old = catalog.stage("t", pl.DataFrame({"id": [8]}), run_id="killed", part=0)
    new = catalog.stage("t", pl.DataFrame({"id": [9]}), run_id="running", part=0)
    folder = Path(catalog.root) / "t"
    day_ago = datetime.now(UTC).timestamp() - 90_000
    os.utime(folder / old.path, (day_ago, day_ago))

    sweep = plan_vacuum(catalog, "t", now=datetime.now(UTC), retention=timedelta(0))
    vacuum(catalog, sweep)

    assert sweep.files == (old.path,)
    assert (folder / new.path).exists()


def test_vacuum_cuts_the_log_where_no_kept_version_needs_it(catalog: Catalog) -> None:
    """The newest stays readable, an old version is refused in words, a run still commits once."""
    appended(catalog, 12)
    optimize(catalog, "t", run_id="o")
    before = catalog.read("t")

    vacuum(catalog, plan_vacuum(catalog, "t", now=later(), retention=timedelta(0)))

    assert_frame_equal(catalog.read("t"), before)
    assert len(list((Path(catalog.root) / "t" / "_delta_log").glob("*.json"))) == 1
    assert [entry.version for entry in catalog.history("t")] == [12]
    assert catalog.write("t", pl.DataFrame({"id": [0]}), run_id="r3", mode="append") == 3
    with pytest.raises(ConfigError) as caught:
        catalog.read("t", 3)
    assert str(caught.value) == (
        "table t.version = 3: must be a version that vacuum has kept. "
        "heliostat table history t lists them"
    )


def test_restore_is_a_new_version_and_can_be_undone(catalog: Catalog) -> None:
    """Also over a change of columns; a version whose files are gone is refused."""
    catalog.write("t", pl.DataFrame({"id": [1]}), run_id="a")
    catalog.write("t", pl.DataFrame({"id": [2]}), run_id="b", mode="append")
    catalog.write("t", pl.DataFrame({"name": ["x"]}), run_id="c")

    assert restore(catalog, "t", 1, run_id="back") == 3
    assert restore(catalog, "t", 1, run_id="back") == 3
    assert catalog.read("t")["id"].sort().to_list() == [1, 2]
    assert restore(catalog, "t", 0, run_id="further") == 4
    assert catalog.read("t")["id"].to_list() == [1]
    assert restore(catalog, "t", 2, run_id="forth") == 5
    assert catalog.read("t").columns == ["name"]
    vacuum(catalog, plan_vacuum(catalog, "t", now=later(), retention=timedelta(0)))
    with pytest.raises(ConfigError) as caught:
        restore(catalog, "t", 1, run_id="gone")
    assert str(caught.value) == (
        "table t.version = 1: must be a version that vacuum has kept; 2 of its 2 files are gone"
    )


def test_diff_says_which_rows_came_went_and_changed(catalog: Catalog) -> None:
    """With keys an update is told from a row gone and a row come; without, it is both."""
    first = pl.DataFrame({"id": [1, 2, 3, None], "v": ["a", "b", "c", "n"]})
    second = pl.DataFrame({"id": [1, 2, 4, None], "v": ["a", "x", "d", "n"], "w": [1, 2, 3, 4]})
    catalog.write("t", first, run_id="a")
    catalog.write("t", second, run_id="b")

    keyed = diff(catalog, "t", 0, 1, keys=["id"])
    plain = diff(catalog, "t", 0, 1)

    assert keyed.columns_added == ("w",)
    assert keyed.rows_inserted.rows() == [(4, "d")]
    assert keyed.rows_deleted.rows() == [(3, "c")]
    assert keyed.rows_updated.rows() == [(2, "x")]
    assert sorted(plain.rows_inserted.rows()) == [(2, "x"), (4, "d")]
    assert sorted(plain.rows_deleted.rows()) == [(2, "b"), (3, "c")]


def test_history_names_versions_writers_and_sizes(catalog: Catalog) -> None:
    """Exactly, while others commit too: it is read from the log itself."""
    appended(catalog, 2)
    catalog.write("t", pl.DataFrame({"id": [5, 6]}), run_id="over")

    found = [
        (entry.version, entry.operation, entry.run_id, entry.rows_added, len(entry.removed))
        for entry in catalog.history("t")
    ]
    assert found == [
        (2, "overwrite", "over", 2, 2),
        (1, "append", "r1", 1, 0),
        (0, "append", "r0", 1, 0),
    ]


def test_the_checkpoint_of_optimize_holds_no_file_that_is_gone(catalog: Catalog) -> None:
    """Nothing else is lost: rows, older versions, columns' tags and what a run has committed."""
    for row in range(20):
        frame = pl.DataFrame({"id": [row], "mail": ["a@b"]})
        catalog.write("t", frame, run_id=f"r{row:02}", mode="append", tags={"mail": "email"})

    optimize(catalog, "t", run_id="o")

    log = Path(catalog.root) / "t" / "_delta_log"
    actions = pl.read_parquet(log / f"{20:020d}.checkpoint.parquet")
    counts = {name: actions[name].is_not_null().sum() for name in actions.columns}
    assert {name: count for name, count in counts.items() if count} == {
        "add": 1, "metaData": 1, "protocol": 1, "txn": 22,
    }  # fmt: skip
    hint = json.loads((log / "_last_checkpoint").read_text())
    assert (hint["version"], hint["size"], hint["numOfAddFiles"]) == (20, 25, 1)
    assert hint["sizeInBytes"] == (log / f"{20:020d}.checkpoint.parquet").stat().st_size
    # Deltalake reads all of it: the entries before it are not needed.
    for entry in log.glob("*.json"):
        if int(entry.name[:20]) < 20:
            entry.rename(entry.with_suffix(".away"))
    assert catalog.read("t")["id"].to_list() == list(range(20))
    assert pii.tags(catalog, "t") == {"mail": "email"}
    assert catalog.write("t", pl.DataFrame({"id": [0], "mail": [""]}), run_id="r03") == 3
    for entry in log.glob("*.away"):
        entry.rename(entry.with_suffix(".json"))
    assert catalog.read("t", 7)["id"].to_list() == list(range(8))
    assert catalog.write("t", pl.DataFrame({"id": [9], "mail": ["c"]}), run_id="more") == 21
    assert plan_vacuum(catalog, "t", now=later(), retention=timedelta(0)).num_bytes > 0


def test_a_checkpoint_that_is_there_is_left_as_it_is(catalog: Catalog) -> None:
    """A reader that has seen how long it is looks for its footer there: not a byte changes."""
    appended(catalog, 3)
    folder = catalog.storage("t")
    table = catalog._existing("t", None)
    table.create_checkpoint()
    log = Path(catalog.root) / "t" / "_delta_log"
    (made,) = log.glob("*.checkpoint.parquet")
    before = (made.read_bytes(), made.stat().st_mtime_ns, made.stat().st_ino)
    hint = (log / "_last_checkpoint").read_bytes()

    checkpoints.write(folder, table)
    optimize(catalog, "t", run_id="nothing-to-do", target_bytes=1)

    assert (made.read_bytes(), made.stat().st_mtime_ns, made.stat().st_ino) == before
    assert (log / "_last_checkpoint").read_bytes() == hint
    assert list(log.glob("*.checkpoint.parquet")) == [made]


def _grown(catalog: Catalog, num_versions: int) -> None:
    """Write so many versions, each with two files that are not there, and one that has all rows."""
    catalog.write("t", pl.DataFrame({"id": [0]}), run_id="first")
    log = Path(catalog.root) / "t" / "_delta_log"
    actions = [json.loads(line) for line in (log / f"{0:020d}.json").read_text().splitlines()]
    (add,) = (item["add"] for item in actions if "add" in item)
    names = [add["path"]]

    def commit(version: int, changes: list[dict[str, object]]) -> None:
        done = [{"txn": {"appId": f"r{version}", "version": version}}, *changes]
        text = "".join(json.dumps(item) + "\n" for item in done)
        (log / f"{version:020d}.json").write_text(text)

    for version in range(1, num_versions):
        new = [f"part-r{version}-{part}.parquet" for part in range(2)]
        commit(version, [{"add": {**add, "path": name}} for name in new])
        names += new
    rows = catalog.stage("t", pl.DataFrame({"id": range(len(names))}), run_id="all", part=0)
    stats = json.dumps({"numRecords": rows.num_rows})
    all_rows = {**add, "path": rows.path, "size": rows.size_bytes, "stats": stats}
    gone = [
        {"remove": {"path": name, "dataChange": False, "deletionTimestamp": 1}} for name in names
    ]
    commit(num_versions, [*gone, {"add": all_rows}])


def test_a_table_of_many_versions_is_read_from_its_last_checkpoint_on(catalog: Catalog) -> None:
    """The same rows, columns and files as the usual way, with what was committed after it."""
    _grown(catalog, recent.MANY)
    folder = catalog.storage("t")
    assert recent.open_newest(folder) is None
    optimize(catalog, "t", run_id="nothing-to-do")
    quick, usual = recent.open_newest(folder), reading.open_table(folder)
    assert quick is not None
    assert usual is not None

    assert quick.version() == usual.version() == recent.MANY
    assert reading.active(quick) == reading.active(usual)
    assert reading.schema(quick) == reading.schema(usual)
    assert catalog.read("t")["id"].to_list() == list(range(2 * recent.MANY - 1))
    more = pl.DataFrame({"id": [-1], "name": ["x"]})
    assert catalog.write("t", more, run_id="more", mode="append") == recent.MANY + 2
    assert catalog.version("t") == recent.MANY + 2
    assert catalog.read("t").filter(id=-1).rows() == [(-1, "x")]
    assert catalog.write("t", more, run_id="r7", mode="append") == 7
    assert catalog.active("t", recent.MANY) == reading.active(usual)


def test_a_table_whose_checkpoint_is_gone_is_opened_the_usual_way(catalog: Catalog) -> None:
    """Also where another program cleaned up, or cut the note of the last checkpoint."""
    appended(catalog, 5)
    folder = catalog.storage("t")
    optimize(catalog, "t", run_id="o")
    log = Path(catalog.root) / "t" / "_delta_log"
    (checkpoint,) = log.glob("*.checkpoint.parquet")
    found = recent.open_newest(folder, many=1)
    assert found is not None
    assert found.version() == 5

    checkpoint.rename(checkpoint.with_suffix(".away"))
    assert recent.open_newest(folder, many=1) is None
    checkpoint.with_suffix(".away").rename(checkpoint)
    (log / "_last_checkpoint").write_bytes(b'{"version"')
    assert recent.open_newest(folder, many=1) is None
    assert catalog.read("t").height == 5
