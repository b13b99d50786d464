"""When a gateway process counts as up."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.unit.serving.conftest import Bench, ask, by_inputs

INFER = "/v2/models/shapes/infer"


def test_a_gateway_is_up_only_when_its_first_policy_answers(bench: Bench) -> None:
    """It may have taken the place of another one: the ingress sends requests at once."""

    async def story() -> Any:
        bench.policies.queue.put_nowait(bench.policy(1, bench.stable("1")))
        starting = asyncio.create_task(bench.gateway.start())
        await asyncio.sleep(0)
        was_up = starting.done()
        await starting
        reply = await ask(bench.gateway, INFER, by_inputs(0.0, "red"))
        await bench.gateway.stop()
        return was_up, reply.status

    assert asyncio.run(story()) == (False, 200)


def test_a_gateway_comes_up_although_its_first_policy_cannot_be_loaded(bench: Bench) -> None:
    """It says that it is not ready, and follows the next one."""

    async def story() -> Any:
        broken = bench.stable("2")
        (bench.root / "packages" / "2" / "model.onnx").write_bytes(b"other")
        bench.policies.queue.put_nowait(bench.policy(1, broken))
        await bench.gateway.start()
        ready = await ask(bench.gateway, "/v2/health/ready")
        await bench.gateway.stop()
        return ready.status

    assert asyncio.run(story()) == 503
