from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from heliostat.data.merge import MergeReport, merge
from heliostat.data.tables import Catalog
from heliostat.errors import ConfigError


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """A table of ten rows in five files."""
    catalog = Catalog(tmp_path)
    for part in range(5):
        ids = [2 * part, 2 * part + 1]
        catalog.write("t", rows(ids, "old"), run_id=f"r{part}", mode="append")
    return catalog


def rows(ids: list[int], value: str) -> pl.DataFrame:
    return pl.DataFrame({"id": ids, "value": [value] * len(ids)}, schema={"id": int, "value": str})


def test_rows_are_inserted_updated_and_deleted_in_one_version(catalog: Catalog) -> None:
    """Every row is accounted for, and files without a changed row are not touched."""
    before = {file.path for file in catalog.active("t")}

    report = merge(
        catalog, "t", rows([1, 100], "new"), keys=["id"], run_id="m",
        delete=pl.DataFrame({"id": [3, 77]}),
    )  # fmt: skip

    assert report == MergeReport(
        table="t", version=5, rows_given=2, rows_inserted=1, rows_updated=1, rows_deleted=1,
        files_rewritten=2, files_kept=3,
    )  # fmt: skip
    found = catalog.read("t").sort("id")
    assert found["id"].to_list() == [0, 1, 2, 4, 5, 6, 7, 8, 9, 100]
    assert found.filter(value="new")["id"].to_list() == [1, 100]
    assert len(before & {file.path for file in catalog.active("t")}) == 3
    assert catalog.history("t")[0].operation == "merge"


def test_a_merge_repeated_gives_its_report_again(catalog: Catalog) -> None:
    """Whatever it brings the second time, and whatever was written since."""
    first = merge(catalog, "t", rows([1], "new"), keys=["id"], run_id="m")
    catalog.write("t", rows([50], "later"), run_id="w", mode="append")

    assert merge(catalog, "t", rows([2], "other"), keys=["id"], run_id="m") == first
    assert catalog.version("t") == 6


def test_merges_at_once_keep_every_key_once(catalog: Catalog) -> None:
    """Each stands on what the other left: no row comes twice and none is lost."""
    with ThreadPoolExecutor(6) as pool:
        list(
            pool.map(
                lambda n: merge(
                    catalog, "t", rows([0, 1000, 2000 + n], f"w{n}"), keys=["id"], run_id=f"m{n}"
                ),
                range(6),
            )
        )

    found = catalog.read("t").sort("id")
    assert found["id"].to_list() == [*range(10), 1000, *range(2000, 2006)]
    winner = found.filter(id=0)["value"][0]
    assert found.filter(id=1000)["value"][0] == winner


def test_an_overwrite_beside_an_append_never_mixes_with_it(tmp_path: Path) -> None:
    """The result is that of one after the other: deltalake alone keeps rows that were unseen."""
    for attempt in range(10):
        catalog = Catalog(tmp_path / str(attempt))
        catalog.write("t", rows([0], "old"), run_id="first")
        with ThreadPoolExecutor(2) as pool:
            jobs = [
                pool.submit(catalog.write, "t", rows([1], "all"), run_id="over"),
                pool.submit(catalog.write, "t", rows([2], "add"), run_id="add", mode="append"),
            ]
            over, add = (job.result() for job in jobs)

        expected = ["all"] if over > add else ["add", "all"]
        assert sorted(catalog.read("t")["value"].to_list()) == expected


def test_columns_that_the_table_lacks_are_null_in_older_rows(catalog: Catalog) -> None:
    """Also where a file is rewritten, and narrower types are widened."""
    new = pl.DataFrame({"id": [1], "value": ["new"], "note": ["hi"]}).cast({"id": pl.Int32})

    merge(catalog, "t", new, keys=["id"], run_id="m")

    assert_frame_equal(
        catalog.read("t").sort("id").head(3),
        pl.DataFrame({"id": [0, 1, 2], "value": ["old", "new", "old"], "note": [None, "hi", None]}),
    )


def test_a_partitioned_table_stays_so(tmp_path: Path) -> None:
    """Rows may move to another partition, and reading one opens only its files."""
    catalog = Catalog(tmp_path)
    frame = pl.DataFrame({"id": [1, 2, 3], "kind": ["a", "b", None]})
    catalog.write("t", frame, run_id="w", partition_by=["kind"])

    merge(catalog, "t", pl.DataFrame({"id": [1], "kind": ["b"]}), keys=["id"], run_id="m")

    assert catalog.read("t", where={"kind": ["b"]})["id"].sort().to_list() == [1, 2]
    assert catalog.read("t", where={"kind": ["a"]}).height == 0
    assert len(catalog.files("t", where={"kind": ["b"]})) == 2
    assert catalog.read("t")["id"].sort().to_list() == [1, 2, 3]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (
            pl.DataFrame({"id": [1, 1], "value": ["a", "b"]}),
            "merge.id = (1,): must be there once: which of its rows to keep is not known",
        ),
        (
            pl.DataFrame({"id": [None], "value": ["a"]}, schema={"id": int, "value": str}),
            "merge.id = None: must not be missing; 1 rows",
        ),
        (
            pl.DataFrame({"id": [1]}),
            (
                "table t.value = None: must be string to be appended; the rows lack it. "
                "Add it as nulls if its values are unknown"
            ),
        ),
        (
            pl.DataFrame({"id": [1], "value": [2.5]}),
            "table t.value = 'double': must be string to be appended",
        ),
    ],
)
def test_rows_that_would_lose_something_are_refused(
    catalog: Catalog, frame: pl.DataFrame, message: str
) -> None:
    """Nothing is committed."""
    with pytest.raises(ConfigError) as caught:
        merge(catalog, "t", frame, keys=["id"], run_id="m")

    assert str(caught.value) == message
    assert catalog.version("t") == 4
