from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from heliostat.data.tables import Catalog
from heliostat.errors import ConfigError
from heliostat.features import offline, stores
from heliostat.features.definitions import Feature, FeatureService, FeatureView
from heliostat.features.materialize import Timeline, materialize
from heliostat.features.online import OnlineReader
from heliostat.features.packed import PackedView
from heliostat.features.redis_client import RedisAddress
from heliostat.features.redis_store import RedisReader

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MOMENT = pl.Datetime("us", "UTC")


def totals(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Running total of each user's orders, known an hour after the order."""
    return (
        tables["orders"]
        .sort("at")
        .select(
            "user",
            event_timestamp=pl.col("at") + HOUR,
            total=pl.col("amount").cum_sum().over("user"),
            rate=pl.col("amount") * tables["rates"]["rate"][0],
        )
    )


def cities(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Where a user lives, known since before the data begins."""
    return tables["users"].select("user", "shop", "city", event_timestamp=pl.lit(T0 - 999 * HOUR))


def misspelt(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Return a column that the view does not declare."""
    return totals(tables).rename({"total": "totals"})


TOTALS = FeatureView(
    name="totals",
    keys=("user",),
    features=(Feature(name="total", dtype="float64"), Feature(name="rate", dtype="float64")),
    inputs=("orders", "rates"),
    compute=totals,
    ttl_s=3_600.0 * 5,
    partition_by=("user",),
)
CITIES = FeatureView(
    name="cities",
    keys=("shop", "user"),
    integer_keys=("shop",),
    features=(Feature(name="city", dtype="string"),),
    inputs=("users",),
    compute=cities,
    ttl_s=None,
)
SERVICE = FeatureService(project="shop", name="churn", views=(TOTALS, CITIES))


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """Orders of 40 users, two an hour."""
    catalog = Catalog(tmp_path / "tables")
    numbers = range(400)
    orders = pl.DataFrame(
        {
            "user": [f"u{number % 40}" if number % 37 else None for number in numbers],
            "at": [T0 + number * HOUR / 2 for number in numbers],
            "amount": [float(number) for number in numbers],
        },
        schema_overrides={"at": MOMENT},
    )
    catalog.write("orders", orders, run_id="raw")
    catalog.write("rates", pl.DataFrame({"rate": [2.0]}), run_id="raw")
    users = [f"u{number}" for number in range(30)]
    catalog.write(
        "users",
        pl.DataFrame({"user": users, "shop": [n % 3 for n in range(30)], "city": users}),
        run_id="raw",
    )
    return catalog


def _entities() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user": ["u1", "u1", "u7", "nobody", None, "u1"],
            "shop": [1, 0, 1, 0, 0, 2],
            "event_timestamp": [T0 + hours * HOUR for hours in (22, 1, 200, 50, 50, 22)],
            "label": [1, 0, 1, 0, 1, 0],
        },
        schema_overrides={"event_timestamp": MOMENT},
    )


@pytest.mark.usefixtures("ray_session")
def test_a_training_set_is_what_was_known(catalog: Catalog) -> None:
    """Rows, order, duplicates and own columns stay; features follow as of each row's time."""
    for view in SERVICE.views:
        assert offline.build_view(view, catalog, run_id="run") == 0

    found = offline.training_set(SERVICE, _entities(), catalog)

    # u1 orders 1 at 0.5 h, 41 at 20.5 h ...: known an hour later, forgotten 5 hours after that.
    assert_frame_equal(
        found,
        _entities().with_columns(
            total=pl.Series([42.0, None, None, None, None, 42.0]),
            rate=pl.Series([82.0, None, None, None, None, 82.0]),
            city=pl.Series(["u1", None, "u7", None, None, None]),
        ),
    )


@pytest.mark.usefixtures("ray_session")
def test_parts_give_what_the_whole_gives(catalog: Catalog) -> None:
    """Split by a hash of the keys, views and joins are the same rows."""
    for view in SERVICE.views:
        offline.build_view(view, catalog, run_id="whole")
    whole = offline.training_set(SERVICE, _entities(), catalog)
    rows = catalog.read("features/totals")

    assert offline.build_view(TOTALS, catalog, run_id="parts", rows_per_task=60) == 1

    assert len(catalog.files("features/totals", 1)) > 1
    assert_frame_equal(
        catalog.read("features/totals", 1).sort("user", "event_timestamp"),
        rows.sort("user", "event_timestamp"),
    )
    assert_frame_equal(offline.training_set(SERVICE, _entities(), catalog, rows_per_task=2), whole)
    commit = catalog.commit_of("features/totals", "parts")
    assert commit is not None
    assert commit.details == {
        "view": TOTALS.digest(),
        "inputs": {"orders": 0, "rates": 0},
        "rows_without_key": 11,
    }


@pytest.mark.usefixtures("ray_session")
def test_what_a_view_returns_wrongly_reaches_the_caller_as_its_own_error(catalog: Catalog) -> None:
    """The error of the task keeps its type and its words, and nothing is written."""
    view = FeatureView(
        name="wrong",
        keys=("user",),
        features=TOTALS.features,
        inputs=("orders", "rates"),
        compute=misspelt,
        ttl_s=None,
    )

    with pytest.raises(ConfigError) as caught:
        offline.build_view(view, catalog, run_id="run")
    assert "view wrong.compute.columns = 'total': must be returned; did you mean 'totals'?" in str(
        caught.value
    )
    with pytest.raises(ConfigError, match="must exist before features are computed from it"):
        offline.training_set(SERVICE, _entities(), catalog)
    assert catalog.version("features/wrong") is None


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("store", ["file", "server"])
def test_online_equals_offline_while_the_clock_advances(
    catalog: Catalog, tmp_path: Path, store: str, request: pytest.FixtureRequest
) -> None:
    """After each step, every user read online as of then has the values of a training set.

    In the platform's own file and on a server; after `clear`, a replay may begin again.
    """
    for view in SERVICE.views:
        offline.build_view(view, catalog, run_id="run")
    file = tmp_path / "online.db"
    reader: OnlineReader | RedisReader
    if store == "file":
        reader = OnlineReader(file, "shop", SERVICE.describe()["views"])
    else:
        store = request.getfixturevalue("redis").url
        views = [PackedView.of("shop", view) for view in SERVICE.views]
        reader = RedisReader(RedisAddress.parse(store), views)
    writer = stores.open_writer(store, file, "shop")
    start = T0 + 10 * HOUR
    report = materialize(SERVICE, catalog, writer, start=None, end=start, now=T0)
    timeline = Timeline(SERVICE, catalog, start=start)
    users = [f"u{number}" for number in range(41)]
    shops = [number % 3 for number in range(41)]

    # 18 users have a total by then; those of 7 are older than the view keeps them.
    assert report.rows == {"totals": 11, "cities": 30}
    assert report.checked == 41
    assert len(writer.recorded()) == 1
    for step in range(0, 60, 7):
        now = start + step * HOUR / 4
        timeline.advance(writer, now)
        entities = pl.DataFrame(
            {"user": users, "shop": shops, "event_timestamp": [now] * 41},
            schema_overrides={"event_timestamp": MOMENT},
        )
        expected = offline.training_set(SERVICE, entities, catalog).select("total", "rate", "city")
        assert reader.read({"user": users, "shop": shops}, now) == expected.to_dict(as_series=False)
    keys = {"user": users, "shop": shops}
    writer.clear(SERVICE.views)
    assert reader.read(keys, None) == dict.fromkeys(("total", "rate", "city"), [None] * 41)
    assert materialize(SERVICE, catalog, writer, start=None, end=start, now=T0).checked == 41
