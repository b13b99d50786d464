"""What a request costs inside the process: the gateway beside the bare app, part by part.

No server, no Ray: both ASGI objects are called directly, in turn, many times. The least of many short
rounds is what the code itself costs; a busy machine only makes it rarer to be seen. Writes
``tests/bench/results/serving.json``, section ``hot_path``.

Usage: ``PYTHONPATH=platform:. python -m tests.bench.hot_path``
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from heliostat.access.keys import KeyFile
from tests.bench.bare_app import Bare
from tests.bench.serving import BODY, INPUTS, keep
from tests.unit.serving.conftest import Bench

INFER = "/v2/models/shapes/infer"
PER_ROUND = 50


async def measure(rounds: int) -> dict[str, Any]:
    """Call both in turn; microseconds per request."""
    folder = Path(tempfile.mkdtemp(prefix="heliostat-hot-path-"))
    bench = Bench(folder / "home", settings={"admission": "on", "access_log_ratio": 1e-6})
    text, _ = KeyFile(bench.root / "keys", time.time).create("bench")
    gateway = bench.gateway
    bench.door.look()
    stable = bench.stable("1", inputs=list(INPUTS), features=None)
    await gateway.policies.activate(bench.policy(1, stable))
    bare = Bare(f"{stable.package_path}/model.onnx")
    headers = [
        (b"host", b"127.0.0.1:8000"),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(BODY)),
        (b"authorization", f"Bearer {text}".encode()),
    ]
    message = {"type": "http.request", "body": BODY, "more_body": False}
    statuses: set[int] = set()

    async def receive() -> dict[str, Any]:
        return message

    async def send(message: Any) -> None:
        if "status" in message:
            statuses.add(message["status"])

    async def ask(app: Callable[..., Awaitable[None]]) -> float:
        began = time.perf_counter()
        for _ in range(PER_ROUND):
            scope = {"type": "http", "method": "POST", "path": INFER, "headers": headers}
            await app(scope, receive, send)
        return (time.perf_counter() - began) / PER_ROUND * 1e6

    found: dict[str, list[float]] = {"bare": [], "gateway": []}
    for _ in range(rounds):
        found["bare"].append(await ask(bare))
        found["gateway"].append(await ask(gateway))
        await asyncio.sleep(0)  # the loop turns, as it does between requests of a server
        gateway.spool._waiting.clear()
        # As in a replica: the meter is emptied each second.
        gateway.measure()
    assert statuses == {200}
    least = {name: round(min(times), 1) for name, times in found.items()}
    return {
        "rounds": rounds,
        "requests_per_round": PER_ROUND,
        "least_us": least,
        "median_us": {name: round(sorted(times)[rounds // 2], 1) for name, times in found.items()},
        "added_least_us": round(least["gateway"] - least["bare"], 1),
        "load_average": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=300)
    found = asyncio.run(measure(parser.parse_args().rounds))
    keep("hot_path", found)
    print(found)


if __name__ == "__main__":
    main()
