"""The gateway's ASGI object behind uvicorn, without Ray: for stock clients and fuzzers by hand.

Usage: ``python -m tests.bench.alone FOLDER PORT [MODELS]``; ends with SIGTERM.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from pathlib import Path
from typing import Any

from heliostat.rollout.policy import NUM_SLOTS, ModelPolicy, Policy
from heliostat.serving.gateway import Gateway
from tests.unit.serving.conftest import Bench


def many(bench: Bench, number: int) -> Policy:
    """A policy of ``shapes`` and as many models more as asked for."""
    policy = bench.policy(1, bench.stable("1"))
    models = dict(policy.models)
    for index in range(2, number + 1):
        name = f"m{index}"
        models[name] = ModelPolicy(
            model=name, variants=(bench.stable(str(index), model=name),), slots=bytes(NUM_SLOTS)
        )
    return dataclasses.replace(policy, models=models)


async def serve(gateway: Gateway, port: int) -> None:
    """Answer on loopback until told to end."""
    import uvicorn

    config: Any = uvicorn.Config(
        gateway, host="127.0.0.1", port=port, log_level="warning", access_log=False,
        loop="uvloop", http="httptools", lifespan="on",
    )  # fmt: skip
    await uvicorn.Server(config).serve()


def main() -> None:
    """Deploy and serve."""
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    bench = Bench(folder / "home")
    bench.policies.queue.put_nowait(many(bench, int(sys.argv[3]) if len(sys.argv) > 3 else 1))
    asyncio.run(serve(bench.gateway, port))


if __name__ == "__main__":
    main()
