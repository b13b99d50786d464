from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from heliostat.cli import app
from heliostat.data.tables import Catalog
from heliostat.features import catalogue
from heliostat.features.definitions import Feature, FeatureService, FeatureView
from heliostat.features.materialize import materialize
from heliostat.features.online import OnlineWriter
from heliostat.store.home import Home

RUNNER = CliRunner()
T0 = datetime(2026, 1, 10, tzinfo=UTC)


def compute(tables: Any) -> pl.DataFrame:
    """Stand in for a view's function; its table is written directly."""
    return tables["t"]


def _service(ttl_s: float) -> FeatureService:
    view = FeatureView(
        name="basket",
        keys=("user",),
        features=(Feature(name="num_items", dtype="int64", description="things in the basket"),),
        inputs=("orders",),
        compute=compute,
        ttl_s=ttl_s,
        owner="shop team",
        description="What a user is about to buy",
    )
    return FeatureService(project="shop", name="churn", views=(view,))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A platform that is down, with one service in two definitions, the newer one online."""
    (tmp_path / "clone" / "platform").mkdir(parents=True)
    home = Home(root=tmp_path / "home")
    home.online_db.parent.mkdir(parents=True)
    monkeypatch.setenv("HELIOSTAT_HOME", str(home.root))
    old, new = _service(60.0), _service(3600.0)
    for service, at in ((old, T0), (new, T0 + timedelta(days=1))):
        catalogue.record(service, home.feast / "shop", tables="churn-model", now=at)
    moment = pl.Datetime("us", "UTC")
    frame = pl.DataFrame(
        [(f"u{n}", T0 + timedelta(minutes=n), n) for n in range(60)],
        schema={"user": pl.String, "event_timestamp": moment, "num_items": pl.Int64},
        orient="row",
    )
    catalog = Catalog(home.tables / "churn-model")
    catalog.write("features/basket", frame, run_id="made")
    writer = OnlineWriter(home.online_db, "shop")
    materialize(new, catalog, writer, start=None, end=T0 + timedelta(hours=1), now=T0)
    writer.close()
    return home


def call(*words: str, code: int = 0) -> str:
    done = RUNNER.invoke(app, ["features", *words])
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout


def test_views_are_listed_by_version_with_freshness(home: Home) -> None:
    """The version that is read now comes first; who uses it cannot be said while MLflow is away."""
    rows = json.loads(call("list", "--json"))

    assert [(row["version"], row["services"], row["newest_event"], row["online_up_to"], row["models"]) for row in rows] == [
        (_service(3600.0).views[0].digest(), ["churn"], "2026-01-10T00:59:00+00:00", "2026-01-10T01:00:00+00:00", None),
        (_service(60.0).views[0].digest(), [], None, None, None),
    ]  # fmt: skip
    line = call("list").splitlines()[1].split()
    assert line[0] == "shop/basket"
    assert line[-1] == "?"


@pytest.mark.parametrize("word", ["BASKET", "things in", "shop team", "orders", "user", "churn"])
def test_views_are_found_by_what_is_said_of_them(home: Home, word: str) -> None:
    """In names, descriptions, owner, keys, tables and services."""
    assert {row["name"] for row in json.loads(call("search", word, "--json"))} == {"basket"}
    assert json.loads(call("search", "nothing like it", "--json")) == []


def test_a_view_is_described_in_all_its_versions(home: Home) -> None:
    """With its features, and an unknown name is told the nearest."""
    text = call("describe", "shop/basket")

    assert f"version {_service(3600.0).views[0].digest()}, read by churn" in text
    assert f"version {_service(60.0).views[0].digest()}, replaced" in text
    assert "num_items" in text
    assert "things in the basket" in text
    done = RUNNER.invoke(app, ["features", "describe", "baskte"])
    assert str(done.exception).startswith("view = 'baskte': must be defined; ")


def test_parity_is_told_and_a_difference_has_its_own_exit_code(home: Home) -> None:
    """The same definitions, compared at the moment up to which the store was filled."""
    report = json.loads(call("parity", "--json", "--entities", "10"))["shop/churn"]
    assert (report["views"], report["online"], report["num_different"]) == (1, 30, 0)
    assert "0 different" in call("parity", "shop/churn")

    writer = OnlineWriter(home.online_db, "shop")
    frame = Catalog(home.tables / "churn-model").read("features/basket")
    writer.write(_service(3600.0).views[0], frame.with_columns(num_items=pl.lit(-1, pl.Int64)))
    writer.close()
    done = RUNNER.invoke(app, ["features", "parity", "shop/churn"])

    assert getattr(done.exception, "exit_code", None) == 3, done.output
    assert (
        "online basket(user='u0') at 2026-01-10T01:00:00+00:00 = [-1]: must be [0]" in done.output
    )


def test_a_definition_that_was_never_brought_online_says_what_to_do(home: Home) -> None:
    """A changed view is another version: what lies online is of the old one."""
    catalogue.record(_service(7200.0), home.feast / "shop", tables="churn-model", now=T0)

    done = RUNNER.invoke(app, ["features", "parity"])

    assert "must be filled with these definitions first" in str(done.exception)
