"""A small stream of orders: its recipe, its messages, and what must come of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import polars as pl

from heliostat.data.contract import Column, Contract
from heliostat.data.tables import Catalog
from heliostat.features import stores
from heliostat.features.aggregates import Aggregates, Measure, Window, history
from heliostat.features.definitions import EVENT_TIMESTAMP, FeatureService, FeatureView
from heliostat.features.online import OnlineReader
from heliostat.streams.online import SqliteOnline
from heliostat.streams.recipe import AnyLog, StreamRecipe, StreamView

CONTRACT = Contract(
    table="orders",
    columns=(
        Column(name="customer", dtype="string"),
        Column(name="at", dtype="timestamp"),
        Column(name="amount", dtype="float64", nullable=True),
        Column(name="number", dtype="int64"),
    ),
)
WHAT = Aggregates(
    keys=("customer",),
    time="at",
    measures=(Measure(column="amount", unit=0.01),),
    windows=(
        Window(name="1h", length_s=3_600, hop_s=300),
        Window(name="1d", length_s=86_400, hop_s=3_600),
        Window(name="7d", length_s=604_800, hop_s=21_600),
    ),
)


def activity(tables: Any) -> pl.DataFrame:
    """The view's batch side: the same definition over the stream's table."""
    return history(tables["orders"], WHAT)


VIEW = FeatureView(
    name="activity",
    keys=("customer",),
    features=WHAT.features,
    inputs=("orders",),
    compute=activity,
    ttl_s=None,
)


def recipe(log: AnyLog, **more: Any) -> StreamRecipe:
    """The stream, quick for tests."""
    settings = {
        "name": "orders", "log": log, "contract": CONTRACT, "time": "at", "project": "shop",
        "views": (StreamView(view=VIEW, aggregates=WHAT),), "batch_every_s": 0.02,
        "commit_every_s": 0.05, "lateness_s": 30.0, "max_ahead_s": 60.0, "idle_s": None,
    }  # fmt: skip
    return StreamRecipe(**{**settings, **more})


def message(number: int, at: datetime, *, customers: int = 20, **more: Any) -> tuple[bytes, bytes]:
    """Key and value of one order."""
    customer = f"c{number * 7919 % customers}"
    value = {
        "customer": customer, "at": at.isoformat(), "amount": (number % 1000) / 100,
        "number": number, **more,
    }  # fmt: skip
    return str(value["customer"]).encode(), json.dumps(value).encode()


def messages(count: int, *, begin: int = 0, now: datetime | None = None, **more: Any) -> list:
    """So many orders of the last minutes, up to 20 s out of order and none late."""
    now = now or datetime.now(UTC)
    return [
        message(n, now - timedelta(seconds=(count - (n - begin)) * 0.01 + n * 31 % 20), **more)
        for n in range(begin, begin + count)
    ]


def reader_of(online):
    """What reads the orders' view from where a stream puts it."""
    if isinstance(online, SqliteOnline):
        return OnlineReader(online.path, online.project, [VIEW])
    service = FeatureService(project=online.project, name="orders", views=(VIEW,))
    views = [SimpleNamespace(**view) for view in service.describe()["views"]]
    return stores.open_reader(online.where, online.file, online.project, views)


def assert_online_equals_batch(catalog: Catalog, online, expected: int) -> int:
    """Every customer's stored values are those of `history` at the moment they are stored for.

    Returns:
        Values that were compared.
    """
    batch = history(catalog.read("orders"), WHAT).sort(EVENT_TIMESTAMP)
    reader = reader_of(online)
    customers = batch["customer"].unique().sort().to_list()
    assert len(customers) == expected
    stored = reader.read({"customer": customers}, None)
    last = batch.group_by("customer", maintain_order=True).agg(pl.all().last())
    # Of the moments of an entity the store holds the newest event; nothing has left since.
    events = catalog.read("orders").group_by("customer").agg(pl.col("at").max())
    at_last = events.sort("at").join_asof(
        batch, left_on="at", right_on=EVENT_TIMESTAMP, by="customer", check_sortedness=False
    )
    assert last.height == at_last.height
    wanted = {row["customer"]: row for row in at_last.iter_rows(named=True)}
    compared = 0
    for place, customer in enumerate(customers):
        for feature in VIEW.features:
            assert stored[feature.name][place] == wanted[customer][feature.name], customer
            compared += 1
    return compared
