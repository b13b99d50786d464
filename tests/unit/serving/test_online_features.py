"""The gateway on the real online store."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from heliostat.features.definitions import Feature, FeatureView
from heliostat.features.online import OnlineReader, OnlineWriter
from tests.unit.serving.conftest import SERVICE, Bench, ask, by_key

INFER = "/v2/models/shapes/infer"
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def compute(_tables: Any) -> pl.DataFrame:
    """Never called; the rows are written by hand."""
    raise AssertionError


VIEW = FeatureView(
    name="sizes",
    keys=("shape_id",),
    features=(Feature(name="size", dtype="float64"), Feature(name="colour", dtype="string")),
    inputs=("shapes",),
    compute=compute,
    ttl_s=3600.0,
)


def test_features_are_read_as_of_the_request_and_missing_ones_are_missing(bench: Bench) -> None:
    """Too old, too new and unknown all score as missing; the log says what was read."""
    service = dataclasses.replace(
        SERVICE, views=(dataclasses.replace(SERVICE.views[0], ttl_s=3600.0),)
    )
    path = bench.root / "online.db"
    gateway = bench.new_gateway(
        "g", lambda reference: OnlineReader(path, reference.project, reference.views)
    )

    async def story() -> list[Any]:
        await gateway.policies.activate(bench.policy(1, bench.stable("1", features=service)))
        replies = [await ask(gateway, INFER, by_key("k1"))]
        OnlineWriter(path, "demo").write(
            VIEW,
            pl.DataFrame(
                {
                    "shape_id": ["k1"],
                    "event_timestamp": [NOON],
                    "size": [2.5],
                    "colour": ["blue"],
                },
                schema_overrides={"event_timestamp": pl.Datetime("us", "UTC")},
            ),
        )
        for key, minutes in (("k1", 0), ("k1", 60), ("k1", 61), ("k1", -1), ("k2", 0)):
            at = (NOON + timedelta(minutes=minutes)).isoformat()
            replies.append(await ask(gateway, INFER, by_key(key), headers={"x-heliostat-at": at}))
        return replies

    replies = asyncio.run(story())

    assert [reply.status for reply in replies] == [503, 200, 200, 200, 200, 200]
    gateway.spool.flush()
    known, missing = {"size": 2.5, "colour": "blue"}, {"size": None, "colour": None}
    assert [record["features"] for record in bench.exposures()] == [
        known,
        known,
        missing,
        missing,
        missing,
    ]


def test_a_key_that_no_store_can_hold_is_the_callers_fault(bench: Bench) -> None:
    """400 with the value, and the store is not taken for a broken one."""
    path = bench.root / "online.db"
    gateway = bench.new_gateway(
        "g", lambda reference: OnlineReader(path, reference.project, reference.views)
    )
    OnlineWriter(path, "demo").write(
        VIEW,
        pl.DataFrame(
            {"shape_id": ["k1"], "event_timestamp": [NOON], "size": [2.5], "colour": ["blue"]},
            schema_overrides={"event_timestamp": pl.Datetime("us", "UTC")},
        ),
    )

    async def story() -> list[Any]:
        await gateway.policies.activate(bench.policy(1, bench.stable("1")))
        wrong = [1.5, float("nan"), True]
        replies = [await ask(gateway, INFER, by_key(value, "FP64")) for value in wrong]
        return [*replies, await ask(gateway, INFER, by_key("k1"))]

    *replies, good = asyncio.run(story())

    assert [reply.status for reply in replies] == [400, 400, 400]
    assert "1.5" in replies[0].body["error"]
    assert good.status == 200
