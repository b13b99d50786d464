"""A gateway on Redis under load: beside inputs given, and while the server is killed or hangs.

The gateway runs as it does in a replica, real packages, real Redis. Once behind the HTTP server
that Serve's replicas have, loaded by wrk; once with requests handed to it in this process, so that
no server in front hides what reading features costs. A closed loop of `CLIENTS` clients each time.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from heliostat.features.definitions import Feature, FeatureView
from heliostat.features.redis_client import RedisAddress
from heliostat.features.redis_store import RedisWriter
from heliostat.features.stores import open_reader
from heliostat.registry.package import FeatureServiceReference, FeatureViewReference, ModelInput
from heliostat.testing.ports import free_ports
from heliostat.testing.redis import RedisServer
from tests.bench import wrk
from tests.unit.serving.conftest import Bench

CLIENTS = 16
FEATURES = 10
ENTITIES = 10_000
ROUND_S = 2.0
ROUNDS = 7
AWAY_S = 3.0
T0 = datetime(2026, 1, 1, tzinfo=UTC)
INFER = "/v2/models/shapes/infer"

Ask = Callable[[int], Any]


def compute(tables: Any) -> pl.DataFrame:
    """Stand in for a view's function; its values are written directly."""
    return tables["t"]


VIEW = FeatureView(
    name="user",
    keys=("user_id",),
    features=tuple(Feature(name=f"f{n}", dtype="float64") for n in range(FEATURES)),
    inputs=("t",),
    compute=compute,
    ttl_s=None,
    defaults=(),
)


def measure() -> dict[str, Any]:
    """Run all and return the figures; over HTTP only where wrk is installed."""
    folder = Path(tempfile.mkdtemp(prefix="heliostat-gateway-"))
    server = RedisServer(folder)
    server.start()
    try:
        _fill(server)
        over_http = {"http": _over_http(folder, server.url)} if wrk.available() else {}
        return asyncio.run(_story(folder, server)) | over_http
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _over_http(folder: Path, url: str) -> dict[str, Any]:
    """Requests per second through the HTTP server of a replica, in a process of its own."""
    (port,) = free_ports(1)
    program = [sys.executable, "-m", "tests.bench.features_gateway", str(folder), url, str(port)]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    rates: dict[str, list[float]] = {"given": [], "redis": []}
    try:
        assert process.stdout is not None
        process.stdout.readline()
        for number in range(ROUNDS + 1):
            kinds = [("given", _given(1)), ("redis", _by_key(1))]
            for kind, bodies in kinds if number % 2 else reversed(kinds):
                found = wrk.run(
                    folder, f"http://127.0.0.1:{port}{INFER}", bodies[0], connections=CLIENTS,
                    seconds=ROUND_S,
                )  # fmt: skip
                if found["errors"]:
                    raise RuntimeError(f"{kind}: {found['errors']:g} requests failed")
                # The first round warms both up.
                rates[kind] += [found["per_s"]] * bool(number)
    finally:
        process.kill()
        process.wait()
    return _compared(rates)


def _compared(rates: dict[str, list[float]]) -> dict[str, Any]:
    ratios = [redis / own for redis, own in zip(rates["redis"], rates["given"], strict=True)]
    return {
        "requests_per_s": {kind: round(statistics.median(found)) for kind, found in rates.items()},
        "redis_to_given": round(statistics.median(ratios), 3),
        "redis_to_given_rounds": [round(ratio, 3) for ratio in ratios],
    }


async def _open(folder: Path, url: str) -> Any:
    """A gateway with one stable version, whose features lie in Redis."""
    bench = Bench(folder / "home")
    bench.settings = {"max_per_model": 10_000}
    gateway = bench.new_gateway(
        "g", lambda reference: open_reader(url, folder, reference.project, reference.views)
    )
    inputs = [ModelInput(name=f"f{n}", kind="numeric") for n in range(FEATURES)]
    view = FeatureViewReference(
        name=VIEW.name, keys=VIEW.keys, features=tuple(item.name for item in VIEW.features),
        ttl_s=None, version=VIEW.digest(), dtypes=("float64",) * FEATURES, defaults=VIEW.defaults,
    )  # fmt: skip
    service = FeatureServiceReference(project="bench", name="s", digest="d", views=(view,))
    await gateway.policies.activate(
        bench.policy(1, bench.stable("1", features=service, inputs=inputs))
    )
    return gateway


async def _serve(folder: Path, url: str, port: int) -> None:
    """Say so once it listens; runs until it is killed."""
    import uvicorn

    class Told(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            print("up", flush=True)

    gateway = await _open(folder / "served", url)
    config = uvicorn.Config(
        gateway, host="127.0.0.1", port=port, access_log=False, log_level="warning", lifespan="off"
    )
    await Told(config).serve()


def _by_key(number: int) -> list[bytes]:
    return [
        json.dumps({"inputs": [_tensor("user_id", "BYTES", f"u{n}")]}).encode()
        for n in range(number)
    ]


def _given(number: int) -> list[bytes]:
    return [
        json.dumps(
            {"inputs": [_tensor(f"f{f}", "FP64", float(n % 7 + f)) for f in range(FEATURES)]}
        ).encode()
        for n in range(number)
    ]


async def _story(folder: Path, server: RedisServer) -> dict[str, Any]:
    gateway = await _open(folder, server.url)
    by_key = _by_key(1000)
    given = _given(1000)
    rates: dict[str, list[float]] = {"given": [], "redis": []}
    for number in range(ROUNDS):
        kinds = [("given", given), ("redis", by_key)]
        for kind, bodies in kinds if number % 2 else reversed(kinds):
            seen = await _load(gateway, bodies, ROUND_S)
            _require_good(seen)
            rates[kind].append(len(seen) / ROUND_S)
    return {
        "clients": CLIENTS,
        **_compared(rates),
        "loss": {kind: await _loss(gateway, by_key, server, kind) for kind in ("hang", "kill")},
    }


async def _loss(
    gateway: Any, bodies: list[bytes], server: RedisServer, kind: str
) -> dict[str, Any]:
    """Load before, while and after the server is gone."""
    base = await _load(gateway, bodies, AWAY_S)
    loading = asyncio.create_task(_load(gateway, bodies, AWAY_S))
    await asyncio.sleep(0.3)
    await asyncio.to_thread(getattr(server, kind))
    away = await loading
    loading = asyncio.create_task(_load(gateway, bodies, 6.0))
    await asyncio.sleep(0.2)
    back = time.perf_counter()
    if kind == "hang":
        await asyncio.to_thread(server.go_on)
    else:
        await asyncio.to_thread(server.start)
        await asyncio.to_thread(_fill, server)
        back = time.perf_counter()
    after = await loading
    last_default = max((at for at, _, status in after if status == "default"), default=back)
    statuses = Counter(status for seen in (base, away, after) for _, _, status in seen)
    return {
        "requests": sum(statuses.values()),
        "answers": dict(statuses),
        "base_p99_ms": _p99(base),
        "away_p99_ms": _p99(away),
        "added_p99_ms": round(_p99(away) - _p99(base), 2),
        "away_max_ms": round(max(took for _, took, _ in away), 2),
        "recovered_after_s": round(max(0.0, last_default - back), 2),
    }


Seen = list[tuple[float, float, str]]


async def _load(gateway: Any, bodies: list[bytes], seconds: float) -> Seen:
    seen: Seen = []
    until = time.perf_counter() + seconds

    async def client(first: int) -> None:
        number = first
        while (began := time.perf_counter()) < until:
            status, headers = await _ask(gateway, bodies[number % len(bodies)])
            label = "default" if b"x-heliostat-features" in headers else "value"
            took_ms = (time.perf_counter() - began) * 1000
            seen.append((began, took_ms, label if status == 200 else str(status)))
            # A client over a network lets others run; a call in this process would not.
            await asyncio.sleep(0)
            number += CLIENTS

    await asyncio.gather(*(client(first) for first in range(CLIENTS)))
    return seen


async def _ask(gateway: Any, body: bytes) -> tuple[int, dict[bytes, bytes]]:
    sent: list[Any] = []
    given = False

    async def receive() -> dict[str, Any]:
        nonlocal given
        if given:
            await asyncio.Event().wait()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await gateway({"type": "http", "method": "POST", "path": INFER, "headers": []}, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"])


def _tensor(name: str, datatype: str, value: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [1], "data": [value]}


def _fill(server: RedisServer) -> None:
    frame = pl.DataFrame(
        {
            "user_id": [f"u{n}" for n in range(ENTITIES)],
            "event_timestamp": pl.Series([T0] * ENTITIES, dtype=pl.Datetime("us", "UTC")),
            **{item.name: [float(n % 7) for n in range(ENTITIES)] for item in VIEW.features},
        }
    )
    RedisWriter(RedisAddress.parse(server.url), "bench").write(VIEW, frame)


def _require_good(seen: Seen) -> None:
    bad = Counter(status for _, _, status in seen if status != "value")
    if bad:
        print(f"not every request got values: {dict(bad)}")


def _p99(seen: Seen) -> float:
    times = sorted(took for _, took, _ in seen)
    return round(times[int(len(times) * 0.99)], 2)


if __name__ == "__main__":
    if sys.argv[1:]:
        import uvloop

        uvloop.run(_serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
    else:
        print(json.dumps(measure(), indent=2))
