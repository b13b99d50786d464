from __future__ import annotations

import math
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from heliostat.errors import ConfigError
from heliostat.features import sources
from heliostat.features.retrieval import Retrieval, newest_of
from heliostat.features.sources import Lookup

NOON = datetime(2026, 1, 10, 12, tzinfo=UTC)


def _lookup(folder: Path, rows: pa.Table, **parts: object) -> Lookup:
    ds.write_dataset(rows, folder, format="parquet", existing_data_behavior="overwrite_or_ignore")
    given = {
        "view": "v", "keys": {"id": "id"}, "features": {"f": "f"}, "event": "at",
        "created": None, "ttl_us": None,
    }  # fmt: skip
    return Lookup(dataset=ds.dataset(folder, format="parquet"), **(given | parts))  # type: ignore[arg-type]


def test_whole_numbers_that_pandas_made_floats_find_their_rows() -> None:
    """NaN, infinity and fractions are no key, and match nothing."""
    given = pl.Series([7.0, None, math.nan, 7.5, math.inf, -2.0, 1e30])

    assert sources.key_as(given, pl.Int64(), "id").to_list() == [
        7, None, None, None, None, -2, None,
    ]  # fmt: skip


def test_a_number_is_not_the_text_of_it() -> None:
    """Guessing would join what does not belong together."""
    with pytest.raises(ConfigError) as caught:
        sources.key_as(pl.Series(["7"]), pl.Int64(), "entity rows.id")

    assert str(caught.value) == (
        "entity rows.id = 'String': must be of the kind that the view's files have: Int64"
    )


@pytest.mark.parametrize(
    "given",
    [
        pl.Series([NOON]),
        pl.Series([NOON]).dt.convert_time_zone("America/New_York").cast(
            pl.Datetime("ms", "America/New_York")
        ),
        pl.Series([NOON.replace(tzinfo=None)]),
        pl.Series(["2026-01-10T12:00:00Z"]),
        pl.Series(["2026-01-10T13:00:00+01:00"]),
    ],
)  # fmt: skip
def test_moments_of_any_form_are_one_moment(given: pl.Series) -> None:
    """Without a zone it is UTC, as Feast says."""
    for unit in ("us", "ns"):
        found = sources.moment(given, unit, "at")  # type: ignore[arg-type]

        assert found.dtype == pl.Datetime(unit, "UTC")  # type: ignore[arg-type]
        assert found.to_list() == [NOON]


def test_a_date_is_its_first_moment_and_a_number_is_none() -> None:
    """Seconds or milliseconds: a number does not say."""
    assert sources.moment(pl.Series([date(2026, 1, 10)]), "us", "at").to_list() == [
        NOON.replace(hour=0)
    ]
    with pytest.raises(ConfigError, match="must be moments"):
        sources.moment(pl.Series([1]), "us", "at")


def test_a_moment_that_nanoseconds_cannot_hold_is_refused() -> None:
    """It would come out as another century."""
    with pytest.raises(ConfigError, match="must lie in the years 1678 to 2261"):
        sources.moment(pl.Series([datetime(1500, 1, 1, tzinfo=UTC)]), "ns", "at")


def test_nanoseconds_decide_what_was_known(tmp_path: Path) -> None:
    """100 ns after the row is the future, whatever the unit of the entity rows."""
    kind = pa.timestamp("ns", "UTC")
    at = int(NOON.timestamp()) * 10**9
    values = pa.table({"id": [1], "at": pa.array([at + 100], kind), "f": [5]})
    entities = pa.table(
        {"id": [1, 1], "when": pa.array([at, at + 1000], pa.timestamp("ns", "UTC"))}
    )
    coarse = pa.table({"id": [1], "when": pa.array([at // 1000], pa.timestamp("us", "UTC"))})
    retrieval = Retrieval(lookups=(_lookup(tmp_path, values),), event="when")

    assert retrieval.in_process(entities)["f"].to_pylist() == [None, 5]
    assert retrieval.in_process(coarse)["f"].to_pylist() == [None]


def test_a_view_without_an_entity_is_looked_up_by_time_alone(tmp_path: Path) -> None:
    """One value for everybody."""
    values = pa.table({"at": [NOON], "f": [5]})
    retrieval = Retrieval(lookups=(_lookup(tmp_path, values, keys={}),), event="when")

    assert retrieval.in_process(pa.table({"when": [NOON]}))["f"].to_pylist() == [5]


def test_entity_rows_with_the_name_of_a_feature_are_refused(tmp_path: Path) -> None:
    """One of both would be lost."""
    values = pa.table({"id": [1], "at": [NOON], "f": [5]})
    retrieval = Retrieval(lookups=(_lookup(tmp_path, values),), event="when")

    with pytest.raises(ConfigError, match="must not be a column, because a feature has this name"):
        retrieval.in_process(pa.table({"id": [1], "when": [NOON], "f": [0]}))


def test_a_column_that_the_files_lack_is_named(tmp_path: Path) -> None:
    """With the nearest one that they have."""
    lookup = _lookup(tmp_path, pa.table({"id": [1], "at": [NOON], "fs": [5]}))

    with pytest.raises(ConfigError, match=r"view v\.source = 'f': must be a column; did you mean"):
        lookup.check()


def test_the_newest_row_of_an_entity_is_the_one_created_last(tmp_path: Path) -> None:
    """Of equal events, whatever their order in the file; rows without a key are left out."""
    rows = pa.table(
        {
            "id": [1, 1, 1, None], "at": [NOON, NOON, NOON.replace(hour=1), NOON],
            "made": [NOON.replace(hour=3), NOON.replace(hour=2), NOON, NOON], "f": [5, 6, 7, 8],
        }
    )  # fmt: skip
    lookup = _lookup(tmp_path, rows, created="made")

    assert newest_of(lookup, rows)["f"].to_pylist() == [5]
