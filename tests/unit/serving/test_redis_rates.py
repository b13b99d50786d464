"""Rates that are counted in Redis: a real server, two gateways, and the loss of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from heliostat.errors import Unavailable
from heliostat.features.redis_client import RedisAddress
from heliostat.serving.redis_rates import RedisRates
from heliostat.testing import redis

pytestmark = pytest.mark.skipif(not redis.is_installed(), reason="redis-server is not installed")


def test_gateways_divide_a_rate_by_what_redis_has_counted(tmp_path: Path) -> None:
    """By need, to the whole of it; a caller that is not asked for elsewhere is one's own."""
    server = redis.RedisServer(tmp_path)
    server.start()

    async def story() -> list[tuple[dict[str, float], int]]:
        address = RedisAddress.parse(server.url)
        busy, idle = RedisRates(address, "busy"), RedisRates(address, "idle")
        found = []
        for _ in range(2):
            found = [
                await busy.divide({"k1": (100.0, 200), "k2": (10.0, 1)}),
                await idle.divide({"k1": (100.0, 0)}),
            ]
            await asyncio.sleep(0.1)
        return found

    try:
        (first, num_first), (second, num_second) = asyncio.run(story())
    finally:
        server.kill()

    assert (num_first, num_second) == (2, 2)
    assert first["k1"] + second["k1"] == pytest.approx(100.0)
    assert first["k1"] > second["k1"]
    assert first["k2"] == pytest.approx(10.0)


def test_a_gateway_that_is_gone_leaves_its_share_to_the_others(tmp_path: Path) -> None:
    """Within three seconds, by the server's own clock."""
    server = redis.RedisServer(tmp_path)
    server.start()

    async def story() -> list[tuple[dict[str, float], int]]:
        address = RedisAddress.parse(server.url)
        one, other = RedisRates(address, "one"), RedisRates(address, "other")
        await other.divide({"k": (100.0, 500)})
        shared = await one.divide({"k": (100.0, 500)})
        await asyncio.sleep(3.2)
        return [shared, await one.divide({"k": (100.0, 500)})]

    try:
        shared, alone = asyncio.run(story())
    finally:
        server.kill()

    assert shared[1] == 2
    assert shared[0]["k"] < 60.0
    assert alone == ({"k": pytest.approx(100.0)}, 1)


def test_a_server_that_is_lost_is_told_and_found_again(tmp_path: Path) -> None:
    """The gateway then keeps its equal share; see the tests of admission."""
    server = redis.RedisServer(tmp_path)
    server.start()

    async def story() -> float:
        rates = RedisRates(RedisAddress.parse(server.url), "one")
        await rates.divide({"k": (10.0, 5)})
        await asyncio.to_thread(server.kill)
        for _ in range(2):
            with pytest.raises(Unavailable):
                await rates.divide({"k": (10.0, 5)})
        await asyncio.to_thread(server.start)
        return (await rates.divide({"k": (10.0, 5)}))[0]["k"]

    try:
        assert asyncio.run(story()) == pytest.approx(10.0)
    finally:
        server.kill()
