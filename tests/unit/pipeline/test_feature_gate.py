"""The gate of feature parity asks the store that gateways read, wherever it is."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from heliostat.data.tables import Catalog
from heliostat.errors import GateRefused
from heliostat.features import stores
from heliostat.features.definitions import Feature, FeatureService, FeatureView
from heliostat.pipeline import feature_gate, live
from heliostat.pipeline.connection import Connection
from heliostat.pipeline.progress import Reporter
from heliostat.store.home import Home

T0 = datetime(2026, 1, 10, tzinfo=UTC)


def compute(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Stand in for a view's function; its table is written directly."""
    return tables["t"]


VIEW = FeatureView(
    name="totals", keys=("user",), features=(Feature(name="total", dtype="int64"),),
    inputs=("t",), compute=compute, ttl_s=None,
)  # fmt: skip
SERVICE = FeatureService(project="shop", name="churn", views=(VIEW,))


def _catalog(folder: Path) -> Catalog:
    catalog = Catalog(folder)
    rows = [(f"u{n}", T0 + n * timedelta(hours=1), n) for n in range(20)]
    schema = {
        "user": pl.String, "event_timestamp": pl.Datetime("us", "UTC"), "total": pl.Int64,
    }  # fmt: skip
    catalog.write(VIEW.table, pl.DataFrame(rows, schema=schema, orient="row"), run_id="made")
    return catalog


def _connection(home: Path, store: str) -> Connection:
    return Connection(
        home=Home(root=home), endpoint="http://127.0.0.1:1", tracking_uri="http://127.0.0.1:1",
        dashboard_url="http://127.0.0.1:1", revision="r", online_store=store,
    )  # fmt: skip


@pytest.mark.parametrize("store", ["file", "server"])
def test_the_store_that_was_filled_is_the_one_that_is_compared(
    store: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """On a server nothing lies in the platform's file, and the gate passes all the same."""
    where = store if store == "file" else request.getfixturevalue("redis").url
    connection = _connection(tmp_path, where)
    connection.home.online_db.parent.mkdir(parents=True, exist_ok=True)
    catalog = _catalog(tmp_path / "tables")
    end = T0 + timedelta(hours=9)

    live.fill_online(SERVICE, connection, catalog, Reporter(), end=end)

    assert connection.home.online_db.exists() is (store == "file")


def test_no_rollout_begins_on_values_that_differ_from_the_tables(
    redis: Any, tmp_path: Path
) -> None:
    """Somebody else wrote to the server since: what models were trained on is not what is served."""
    connection, catalog = _connection(tmp_path, redis.url), _catalog(tmp_path / "tables")
    end = T0 + timedelta(hours=9)
    live.fill_online(SERVICE, connection, catalog, Reporter(), end=end)
    views = feature_gate.of_service(SERVICE)

    def judge() -> None:
        feature_gate.require_parity(
            views, catalog, connection, project="shop", versions={VIEW.name: 0}, at=end,
            stage="canary", reporter=Reporter(),
        )  # fmt: skip

    judge()
    wrong = catalog.read(VIEW.table).with_columns(total=pl.lit(-1, pl.Int64))[:1]
    stores.open_writer(redis.url, connection.home.online_db, "shop").write(VIEW, wrong)
    with pytest.raises(GateRefused, match="canary stays where it is: feature parity is 1 diff"):
        judge()
