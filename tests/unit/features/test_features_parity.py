"""Online, offline and a plain loop are compared on a sample, and a difference is found."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from heliostat.data.tables import Catalog
from heliostat.errors import GateRefused
from heliostat.features import parity
from heliostat.features.definitions import Feature, FeatureService, FeatureView
from heliostat.features.materialize import materialize
from heliostat.features.online import OnlineWriter
from heliostat.features.stores import FILE, Store

T0 = datetime(2026, 1, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)


def compute(tables: Any) -> pl.DataFrame:
    """Stand in for a view's function; its table is written directly."""
    return tables["t"]


def _view(name: str, ttl_s: float | None) -> FeatureView:
    return FeatureView(
        name=name,
        keys=("shop", "user"),
        integer_keys=("user",),
        features=(
            Feature(name=f"{name}_n", dtype="int64"), Feature(name=f"{name}_x", dtype="float64"),
            Feature(name=f"{name}_t", dtype="string"),
        ),
        inputs=("t",),
        compute=compute,
        ttl_s=ttl_s,
    )  # fmt: skip


SERVICE = FeatureService(
    project="shop", name="churn", views=(_view("brief", 3600.0), _view("ever", None))
)
VIEWS = [SimpleNamespace(**view) for view in SERVICE.describe()["views"]]
END = T0 + 100 * HOUR


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """Two views with ties, nulls and rows that were created long after their event."""
    catalog = Catalog(tmp_path / "tables")
    source = random.Random(5)
    for view in SERVICE.views:
        rows = [
            (
                f"s{source.randrange(3)}", source.randrange(20), at,
                at + source.choice([0, 0, 1, 300]) * HOUR,
                source.randrange(10**9), source.choice([None, source.random()]),
                source.choice([None, "", "ü"]),
            )
            for at in (T0 + source.randrange(120) * HOUR for _ in range(600))
        ]  # fmt: skip
        moment = pl.Datetime("us", "UTC")
        names = [item.name for item in view.features]
        schema = {
            "shop": pl.String, "user": pl.Int64, "event_timestamp": moment,
            "created_timestamp": moment,
            **dict(zip(names, (pl.Int64, pl.Float64, pl.String), strict=True)),
        }  # fmt: skip
        catalog.write(view.table, pl.DataFrame(rows, schema=schema, orient="row"), run_id="made")
    return catalog


@pytest.fixture
def store(catalog: Catalog, tmp_path: Path) -> Store:
    """The embedded store, filled up to `END`."""
    writer = OnlineWriter(tmp_path / "online.db", "shop")
    materialize(SERVICE, catalog, writer, start=None, end=END, now=END)
    writer.close()
    return Store(where=FILE, file=tmp_path / "online.db", project="shop")


def _check(catalog: Catalog, store: Store) -> parity.ParityReport:
    versions = {view.name: 0 for view in SERVICE.views}
    return parity.check(VIEWS, catalog, store, at=END, versions=versions)


def _overwritten(store: Store, catalog: Catalog, at: datetime | None) -> None:
    """Give every user of the view ``ever`` a wrong number, at its own event or at `at`."""
    view = SERVICE.views[1]
    rows = catalog.read(view.table).filter(pl.col("event_timestamp") <= END)
    if at is not None:
        rows = rows.with_columns(event_timestamp=pl.lit(at).dt.cast_time_unit("us"))
    writer = OnlineWriter(store.file, "shop")
    writer.write(view, rows.with_columns(ever_n=pl.lit(-1, pl.Int64)))
    writer.close()


def test_a_store_that_was_just_filled_has_parity(catalog: Catalog, store: Store) -> None:
    """Every lookup of a known number is compared, and the words say how many."""
    report = _check(catalog, store)

    assert report.num_different == 0, report.examples
    assert (report.views, report.newer) == (2, 0)
    assert report.offline > 500
    # 50 of the 60 entities per view; the brief one is asked at three moments.
    assert report.online == 50 * 3 + 50
    assert str(report) == f"2 views, {report.offline:,} lookups offline, 200 online, 0 different"
    report.require_equal("churn")


def test_a_wrong_value_online_is_found_and_refuses(catalog: Catalog, store: Store) -> None:
    """The refusal names entity, moment, what was read and what must be there."""
    _overwritten(store, catalog, None)

    report = _check(catalog, store)

    assert report.num_different == 50
    assert report.examples[0].startswith("online ever(shop='s0', user=0) at 2026-01-14T04:00:00")
    assert "= [-1, " in report.examples[0]
    with pytest.raises(GateRefused, match=r"churn stays where it is: feature parity is 50 diff"):
        report.require_equal("churn")


def test_what_became_newer_since_is_left_out_and_counted(catalog: Catalog, store: Store) -> None:
    """A stream may have gone on; the moment before it can no longer be seen."""
    _overwritten(store, catalog, END + HOUR)

    report = _check(catalog, store)

    assert (report.num_different, report.newer, report.online) == (0, 50, 150)


def test_nothing_compared_is_no_parity(catalog: Catalog, store: Store) -> None:
    """All values of the one view are too old when it is asked for: no evidence, no passing."""
    report = parity.check(VIEWS[:1], catalog, store, at=END + 500 * HOUR, versions={"brief": 0})

    assert (report.num_different, report.online) == (0, 0)
    with pytest.raises(GateRefused, match="nothing compared online, needs a sample"):
        report.require_equal("churn")


def test_cleared_views_forget_what_was_recorded(store: Store) -> None:
    """Or the next incremental run would begin where nothing is any more."""
    writer = OnlineWriter(store.file, "shop")
    assert len(writer.recorded()) == 1

    writer.clear(SERVICE.views[:1])

    assert writer.recorded() == []
