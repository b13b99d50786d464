"""A version whose network is a pickle: on trial, when its process dies, and after its promotion."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from heliostat.errors import Unavailable
from tests.unit.inference import odd_estimators as odd
from tests.unit.serving.conftest import Bench, Reply, ask, by_inputs

INFER = "/v2/models/shapes/infer"


def test_a_pickled_version_earns_its_traffic_as_any_other(bench: Bench) -> None:
    """A request that its process dies of is answered by the stable version; the next one is its own.

    After its promotion it answers from the gateway, still in a process of its own.
    """

    async def story() -> list[Reply]:
        candidate = await bench.candidate("2", pickled=odd.Sleepy())
        policy = bench.policy(1, bench.stable("1"), candidate, share=1.0, deadline_s=5.0)
        await bench.gateway.policies.activate(policy)
        replies = [await ask(bench.gateway, INFER, by_inputs(0.5, "red"))]
        replies.append(await ask(bench.gateway, INFER, by_inputs(13.0, "red")))
        await asyncio.to_thread(until_back, bench.wire.apps[candidate.url]._predictor)
        replies.append(await ask(bench.gateway, INFER, by_inputs(0.25, "red")))
        await bench.gateway.policies.activate(
            bench.policy(2, bench.stable("3", pickled=odd.Halves()))
        )
        replies.append(await ask(bench.gateway, INFER, by_inputs(8.0, "blue")))
        return replies

    own, other, again, promoted = asyncio.run(story())

    for reply, half in ((own, 0.25), (again, 0.125), (promoted, 4.0)):
        assert (reply.status, reply.body["outputs"][0]["data"]) == (200, [half])
        assert reply.headers["x-heliostat-fallback"] == "0"
    assert (other.status, other.headers["x-heliostat-fallback"]) == (200, "1")
    assert other.headers["x-heliostat-version"] == "1"


def until_back(predictor: Any) -> None:
    until_s = time.monotonic() + 120
    while time.monotonic() < until_s:
        try:
            predictor.predict({"size": [None], "colour": [None]})
        except Unavailable:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("no process came up")
