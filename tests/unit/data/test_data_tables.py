from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from heliostat.data.tables import Catalog
from heliostat.errors import ConfigError, HeliostatError

ROWS = pl.DataFrame(
    {
        "id": [1, 2],
        "name": ["ä", None],
        "at": [datetime(2026, 1, 1, 0, 0, 0, 5, tzinfo=UTC), None],
        "x": [1.5, None],
        "on": [True, None],
    },
    schema={
        "id": pl.Int64,
        "name": pl.String,
        "at": pl.Datetime("us", "UTC"),
        "x": pl.Float64,
        "on": pl.Boolean,
    },
)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """A catalog in a folder with a space and an umlaut."""
    return Catalog(tmp_path / "tables of Jürgen")


def test_what_is_written_is_read_again(catalog: Catalog) -> None:
    """Values, types and order of rows and columns stay."""
    assert catalog.version("raw/things") is None
    assert catalog.write("raw/things", ROWS, run_id="run-1") == 0

    assert_frame_equal(catalog.read("raw/things"), ROWS)
    assert catalog.read("raw/things", columns=["x", "id"]).columns == ["x", "id"]
    assert catalog.names() == ["raw/things"]
    assert catalog.num_rows("raw/things") == 2
    assert catalog.schema("raw/things") == ROWS.schema


def test_every_version_stays_readable(catalog: Catalog) -> None:
    """Overwriting, also with other columns, and appending leave older versions as they were."""
    catalog.write("t", ROWS, run_id="a")
    catalog.write("t", ROWS, run_id="b", mode="append")
    catalog.write("t", ROWS.select("name").head(0), run_id="c")

    assert [catalog.read("t", version).height for version in (0, 1, 2)] == [2, 4, 0]
    assert catalog.read("t").columns == ["name"]


def test_a_run_commits_once(catalog: Catalog) -> None:
    """Repeated, it gets its version again, and nothing is added."""
    for _ in range(3):
        assert catalog.write("t", ROWS, run_id="a") == 0
    assert catalog.write("t", ROWS, run_id="b", mode="append") == 1
    assert catalog.write("t", ROWS.head(1), run_id="a", mode="append") == 0

    assert catalog.read("t").height == 4


def test_staged_files_are_not_part_of_the_table(catalog: Catalog) -> None:
    """Until the commit, and ever if it does not come."""
    catalog.write("t", ROWS, run_id="a")
    catalog.stage("t", ROWS, run_id="killed", part=0)

    assert catalog.read("t").height == 2
    assert len(catalog.files("t")) == 1


def test_staging_again_gives_the_same_file(catalog: Catalog) -> None:
    """A task that is repeated after a kill leaves no second copy."""
    first = catalog.stage("t", ROWS, run_id="a", part=3)

    assert catalog.stage("t", ROWS, run_id="a", part=3) == first
    assert len(list((catalog.root / "t").glob("part-*"))) == 1


def test_a_file_that_is_gone_is_not_committed(catalog: Catalog) -> None:
    """Delta itself would commit it, and every reader would fail from then on."""
    catalog.write("t", ROWS, run_id="a")
    staged = catalog.stage("t", ROWS, run_id="b", part=0)
    (catalog.root / "t" / staged.path).unlink()

    with pytest.raises(HeliostatError, match="the staged file is gone or was cut"):
        catalog.commit("t", [staged], ROWS.schema, run_id="b", mode="append")
    assert catalog.version("t") == 0


def test_writers_at_once_all_commit(catalog: Catalog) -> None:
    """Also where the table does not exist yet: no append is lost and none comes twice."""
    with ThreadPoolExecutor(8) as pool:
        versions = list(
            pool.map(
                lambda run: catalog.write("t", ROWS, run_id=f"run-{run % 8}", mode="append"),
                range(16),
            )
        )

    assert sorted(versions) == sorted([*range(8), *range(8)])
    assert catalog.read("t").height == 16


def test_a_commit_keeps_what_the_writer_says(catalog: Catalog) -> None:
    """Details come back with the version, for that run only."""
    staged = catalog.stage("t", ROWS, run_id="a", part=0)
    catalog.commit("t", [staged], ROWS.schema, run_id="a", mode="overwrite", details={"n": [1]})

    found = catalog.commit_of("t", "a")
    assert found is not None
    assert (found.version, found.details) == (0, {"n": [1]})
    assert catalog.commit_of("t", "b") is None
    assert catalog.commit_of("absent", "a") is None


def test_a_wrong_name_version_column_or_type_is_refused(catalog: Catalog) -> None:
    """The error says what there is."""
    catalog.write("things", ROWS, run_id="a")

    for call, message in (
        (lambda: catalog.read("thing"), "table = 'thing': must exist; did you mean 'things'?"),
        (
            lambda: catalog.read("things", 1),
            "table things.version = 1: must be a version of the table, 0 to 0",
        ),
        (
            lambda: catalog.read("things", columns=["nam"]),
            "table things.columns = 'nam': must exist; did you mean 'name'?",
        ),
        (
            lambda: catalog.write(
                "things", ROWS.cast({"id": pl.String}), run_id="b", mode="append"
            ),
            "table things.id = 'string': must be long to be appended",
        ),
        (
            lambda: catalog.write("things", ROWS, run_id="../b"),
            (
                "run_id = '../b': must be 1 to 128 letters, digits, '_', '.' or '-', beginning with "
                "a letter or digit"
            ),
        ),
        (
            lambda: catalog.version("../etc"),
            (
                "table name = '..': must be 1 to 63 characters of a-z, 0-9, _ and -, beginning with "
                "a letter"
            ),
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert str(caught.value) == message
