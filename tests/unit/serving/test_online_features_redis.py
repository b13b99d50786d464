"""The gateway on Redis: values, declared defaults with a label, and a server that goes and comes."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pytest

from heliostat.features.definitions import Feature, FeatureView
from heliostat.features.redis_client import RedisAddress
from heliostat.features.redis_store import RedisWriter
from heliostat.features.stores import open_reader
from heliostat.registry.package import FeatureServiceReference, FeatureViewReference
from tests.unit.serving.conftest import Bench, ask, by_key

INFER = "/v2/models/shapes/infer"
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
AT = {"x-heliostat-at": NOON.isoformat()}


def compute(tables: Any) -> pl.DataFrame:
    """Stand in for a view's function; its values are written directly."""
    return tables["shapes"]


VIEW = FeatureView(
    name="sizes",
    keys=("shape_id",),
    features=(Feature(name="size", dtype="float64"), Feature(name="colour", dtype="string")),
    inputs=("shapes",),
    compute=compute,
    ttl_s=None,
    defaults=(("size", 4.0),),
)


def _service(*, with_defaults: bool) -> FeatureServiceReference:
    view = FeatureViewReference(
        name="sizes", keys=("shape_id",), features=("size", "colour"), ttl_s=None,
        version=VIEW.digest(), dtypes=("float64", "string"),
        defaults=VIEW.defaults if with_defaults else None,
    )  # fmt: skip
    return FeatureServiceReference(project="demo", name="shapes", digest="d1", views=(view,))


def _score(size: float | None, colour: int) -> float:
    return 1 / (1 + math.exp(-(1.0 + (size or 0.0) + 0.01 * colour)))


def _gateway(bench: Bench, url: str) -> Any:
    bench.settings = {"feature_deadline_s": 0.2, "feature_failures": 2}
    return bench.new_gateway(
        "g",
        lambda reference: open_reader(
            url, bench.root / "unused", reference.project, reference.views
        ),
    )


def _write(url: str) -> None:
    RedisWriter(RedisAddress.parse(url), "demo").write(
        VIEW,
        pl.DataFrame(
            {"shape_id": ["k1"], "event_timestamp": [NOON], "size": [2.5], "colour": ["blue"]},
            schema_overrides={"event_timestamp": pl.Datetime("us", "UTC")},
        ),
    )


@pytest.mark.parametrize("loss", ["kill", "hang"])
def test_declared_defaults_answer_with_a_label_while_redis_is_gone(
    bench: Bench, redis: Any, loss: str
) -> None:
    """No request fails; values are back once the server is."""
    gateway = _gateway(bench, redis.url)
    _write(redis.url)

    async def story() -> tuple[Any, list[Any], Any]:
        await gateway.policies.activate(
            bench.policy(1, bench.stable("1", features=_service(with_defaults=True)))
        )
        before = await ask(gateway, INFER, by_key("k1"), headers=AT)
        getattr(redis, loss)()
        meanwhile = [await ask(gateway, INFER, by_key("k1"), headers=AT) for _ in range(6)]
        if loss == "kill":
            redis.start()
            _write(redis.url)
        else:
            redis.go_on()
        for _ in range(200):
            after = await ask(gateway, INFER, by_key("k1"), headers=AT)
            if "x-heliostat-features" not in after.headers:
                return before, meanwhile, after
            await asyncio.sleep(0.05)
        raise AssertionError("the store is not read again")

    before, meanwhile, after = asyncio.run(story())

    assert before.status == 200
    assert "x-heliostat-features" not in before.headers
    assert [reply.status for reply in meanwhile] == [200] * 6
    assert {reply.headers["x-heliostat-features"] for reply in meanwhile} == {"default"}
    score = pytest.approx(_score(4.0, 0), abs=1e-6)
    assert [reply.body["outputs"][0]["data"] for reply in meanwhile] == [[score]] * 6
    assert after.body["outputs"] == before.body["outputs"]


def test_a_model_without_defaults_refuses_until_redis_is_back(bench: Bench, redis: Any) -> None:
    """Nobody declared what to answer with, so nothing is made up."""
    gateway = _gateway(bench, redis.url)
    _write(redis.url)

    async def story() -> list[Any]:
        await gateway.policies.activate(
            bench.policy(1, bench.stable("1", features=_service(with_defaults=False)))
        )
        replies = [await ask(gateway, INFER, by_key("k1"), headers=AT)]
        redis.kill()
        replies += [await ask(gateway, INFER, by_key("k1"), headers=AT) for _ in range(4)]
        return replies

    assert [reply.status for reply in asyncio.run(story())] == [200, 503, 503, 503, 503]


def test_a_package_without_view_versions_cannot_be_read_from_a_server(bench: Bench) -> None:
    """Which record to read is not known; the answer is 503 and the log says what to do."""
    gateway = _gateway(bench, "redis://127.0.0.1:1/0")
    service = _service(with_defaults=True)
    service = dataclasses.replace(
        service, views=(dataclasses.replace(service.views[0], version="", dtypes=()),)
    )

    async def story() -> Any:
        await gateway.policies.activate(bench.policy(1, bench.stable("1", features=service)))
        return await ask(gateway, INFER, by_key("k1"), headers=AT)

    assert asyncio.run(story()).status == 503
