"""A model with a gateway of its own, which Serve scales with the load; a part of `serving_long`."""

from __future__ import annotations

import asyncio
import collections
import time
from typing import Any

from heliostat.rollout.policy import NUM_SLOTS, ModelPolicy, Policy
from tests.bench.long_parts import WORK
from tests.local.chain import MODEL, Chain, in_thread
from tests.unit.serving import bad_input

LARGE = "shapes-large"
PROCESS = f"ray::ServeReplica:own-{LARGE}"
MOST = 3
AT_A_TIME = 16


class ClosedLoop:
    """Clients that each send the next request when the last one is answered; counts statuses."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.at_a_time = 1
        self.statuses: collections.Counter[str] = collections.Counter()
        self._is_stopped = False

    async def run(self) -> None:
        """Send until `stop`; `at_a_time` may change meanwhile."""
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=40.0)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            await asyncio.gather(*(self._client(session, number) for number in range(AT_A_TIME)))

    def stop(self) -> None:
        """Send no more."""
        self._is_stopped = True

    async def _client(self, session: Any, number: int) -> None:
        while not self._is_stopped:
            if number >= self.at_a_time:
                await asyncio.sleep(0.1)
                continue
            try:
                async with session.post(self._url, data=bad_input.GOOD) as answer:
                    await answer.read()
                    self.statuses[str(answer.status)] += 1
            except Exception as error:  # noqa: BLE001 - every kind of failure is counted
                self.statuses[type(error).__name__] += 1


async def own(chain: Chain, *, small: bool) -> dict[str, Any]:
    """Ask it as one client, then as many until Serve has started all it may, then as one again."""
    others = chain.beside
    chain.args["elsewhere"] = [LARGE]
    application = {
        "name": f"own-{LARGE}",
        "route_prefix": f"/v2/models/{LARGE}",
        "import_path": "serve_apps.gateway:build",
        "args": {
            **{name: chain.args[name] for name in ("home", "endpoint")},
            "model": LARGE, "max_replicas": MOST, "target_ongoing": 3,
            "upscale_delay_s": 2.0, "downscale_delay_s": 10.0,
        },
    }  # fmt: skip
    await in_thread(lambda: chain.put(gateways=2, more=[*others, application]))
    await in_thread(lambda: chain.wait(lambda: _processes(chain) == 1, timeout_s=120.0))
    await in_thread(_publish, chain)
    path = f"/v2/models/{LARGE}"
    await in_thread(lambda: chain.wait(lambda: chain.ask(f"{path}/ready")[0] == 200))
    before = sum(1 for _ in chain.exposures())
    load = ClosedLoop(f"{chain.endpoint}{path}/infer")
    sending = asyncio.create_task(load.run())
    await asyncio.sleep(2.0)
    load.at_a_time = AT_A_TIME
    up_s = await _until(chain, MOST)
    await asyncio.sleep(2.0 if small else 20.0)
    load.at_a_time = 1
    down_s = await _until(chain, 1)
    await asyncio.sleep(2.0)
    load.stop()
    await sending
    neighbour, _ = await in_thread(chain.ask, f"/v2/models/{MODEL}/infer", bad_input.GOOD)
    await asyncio.sleep(1.5)
    exposed = sum(1 for _ in chain.exposures()) - before - (neighbour == 200)
    del chain.args["elsewhere"]
    await in_thread(lambda: chain.put(gateways=2, more=others))
    sent = sum(load.statuses.values())
    return {
        "most_processes": MOST, "clients": AT_A_TIME,
        "all_started_after_s": up_s, "one_left_after_s": down_s,
        "sent": sent, "answered": load.statuses["200"], "refused": load.statuses["503"],
        "failed": sent - load.statuses["200"] - load.statuses["503"],
        "by_status": dict(load.statuses),
        "exposed": exposed, "neighbour_status": neighbour,
    }  # fmt: skip


def _publish(chain: Chain) -> None:
    """Make the large model stable beside the usual one, and wait for both gateways' word."""
    from heliostat.serving import deployments

    chain.epoch += 1
    variants = {
        MODEL: chain.stable("1"),
        LARGE: chain.stable("41", model=LARGE, work=WORK),
    }
    models = {
        name: ModelPolicy(model=name, variants=(variant,), slots=bytes(NUM_SLOTS))
        for name, variant in variants.items()
    }
    chain.policies[chain.epoch] = models[MODEL]
    assert deployments.publish(Policy(epoch=chain.epoch, models=models), wait_s=120.0)


def _processes(chain: Chain) -> int:
    return len(chain.pids(PROCESS))


async def _until(chain: Chain, number: int, *, most_s: float = 180.0) -> float | None:
    """Seconds until so many processes are there; None if they never were."""
    began = time.perf_counter()
    while time.perf_counter() - began < most_s:
        if await in_thread(_processes, chain) == number:
            return round(time.perf_counter() - began, 1)
        await asyncio.sleep(0.5)
    return None
