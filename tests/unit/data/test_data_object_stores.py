from __future__ import annotations

import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from heliostat.data.citations import cite
from heliostat.data.merge import merge
from heliostat.data.tables import Catalog
from heliostat.data.upkeep import optimize, plan_vacuum, vacuum
from heliostat.errors import ConfigError, HeliostatError, Unavailable

SECRETS = ("AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_ACCOUNT_KEY")
ROWS = pl.DataFrame({"id": [1, 2], "kind": ["a", None]})


# Azurite does not know `startFrom`, with which deltalake looks for what came after a version: only
# what needs one version of a table can be shown on it.
ON_S3 = pytest.mark.parametrize("catalog", ["s3"], indirect=True)


@pytest.fixture(params=["s3", "az", "abfss"])
def catalog(request: pytest.FixtureRequest) -> Catalog:
    scheme = str(request.param)
    options = request.getfixturevalue("s3" if scheme == "s3" else "azure")
    name = re.sub(r"\W+", "-", str(request.node.name).replace("_", "-"))
    container = "lake@lakeaccount.dfs.core.windows.net" if scheme == "abfss" else "lake"
    return Catalog(f"{scheme}://{container}/{name}", options=options)


@ON_S3
def test_a_table_is_written_read_merged_compacted_and_cleaned(catalog: Catalog) -> None:
    """The same calls as on local disk, through deltalake's own clients."""
    assert catalog.names() == []
    for run in range(3):
        catalog.write("raw/t", ROWS.with_columns(pl.col("id") + 10 * run), run_id=f"r{run}",
                      mode="append", partition_by=["kind"])  # fmt: skip
    report = merge(catalog, "raw/t", ROWS.with_columns(kind=pl.lit("z")), keys=["id"], run_id="m")
    before = catalog.read("raw/t").sort("id")
    cite(catalog, "raw/t", 1, by="model churn@1", now=datetime.now(UTC))
    optimize(catalog, "raw/t", run_id="o")
    sweep = plan_vacuum(
        catalog, "raw/t", now=datetime.now(UTC) + timedelta(days=30), retention=timedelta(0)
    )
    vacuum(catalog, sweep)

    assert catalog.names() == ["raw/t"]
    assert (report.rows_updated, report.rows_inserted) == (2, 0)
    assert_frame_equal(catalog.read("raw/t").sort("id"), before)
    assert catalog.read("raw/t", 1)["id"].sort().to_list() == [1, 2, 11, 12]
    assert len(sweep.files) > 0
    assert [entry.operation for entry in catalog.history("raw/t", limit=2)] == ["optimize", "merge"]


@ON_S3
def test_writers_at_once_all_commit(catalog: Catalog) -> None:
    """Conditional writes decide who is first; no append is lost and none comes twice."""
    with ThreadPoolExecutor(4) as pool:
        versions = list(
            pool.map(
                lambda run: catalog.write("t", ROWS, run_id=f"run-{run}", mode="append"), range(4)
            )
        )

    assert sorted(versions) == [0, 1, 2, 3]
    assert catalog.read("t").height == 8


def test_keys_of_a_store_are_never_shown(catalog: Catalog) -> None:
    """Not by the catalog, nor by the errors of a store that is gone or refuses; tasks get them."""
    options = dict(catalog.options)
    secret = next(options[key] for key in SECRETS if key in options)
    nowhere = {key: "http://127.0.0.1:9/lakeaccount" for key in options if "ENDPOINT" in key}
    gone = Catalog(catalog.root, options={**options, **nowhere, "max_retries": "0"})

    with pytest.raises(Unavailable) as caught:
        gone.read("t")

    assert str(caught.value).startswith(f"{catalog.root}/t: does not answer as an object store")
    for text in (repr(catalog), str(caught.value), repr(caught.value)):
        assert secret not in text
    assert pickle.loads(pickle.dumps(catalog)).options == options


def test_an_unknown_kind_of_store_is_refused() -> None:
    """Before anything is contacted."""
    with pytest.raises(ConfigError, match="must be a path or one of"):
        Catalog("ftp://host/tables").version("t")


def test_a_file_that_is_gone_is_named(catalog: Catalog) -> None:
    """A reader gets no part of a version."""
    catalog.write("t", ROWS, run_id="a")
    assert_frame_equal(catalog.read("t"), ROWS)
    assert (catalog.names(), catalog.write("t", ROWS, run_id="a")) == (["t"], 0)
    folder = catalog._folder("t")
    folder.delete(catalog.active("t")[0].path)

    with pytest.raises(HeliostatError, match="a file of this version is gone"):
        catalog.read("t")
