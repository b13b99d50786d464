"""Online reads side by side, in turn: raw Redis, our reader, Feast's SDK and ``feast serve``.

Part of `make bench-features`; needs redis-server and, for the peers, the Python package redis.
The reader that needs no Feast runs in a process of its own, which says what it loaded.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from heliostat.features.definitions import Feature, FeatureView
from heliostat.features.packed import PackedView, feast_fields
from heliostat.features.redis_client import RedisAddress
from heliostat.features.redis_store import RedisReader, RedisWriter
from heliostat.testing.ports import free_ports
from heliostat.testing.redis import RedisServer

ENTITIES = 10_000
FEATURES = 10
ROUNDS = 40
CALLS = {1: 100, 100: 20}
T0 = datetime(2026, 1, 1, tzinfo=UTC)


def compute(tables: Any) -> pl.DataFrame:
    """Stand in for a view's function; its values are written directly."""
    return tables["t"]


VIEW = FeatureView(
    name="user",
    keys=("user_id",),
    integer_keys=("user_id",),
    features=tuple(Feature(name=f"f{n}", dtype="float64") for n in range(FEATURES)),
    inputs=("t",),
    compute=compute,
    ttl_s=None,
)


def measure() -> dict[str, Any]:
    """Start everything, take turns, and return quantiles in milliseconds."""
    folder = Path(tempfile.mkdtemp(prefix="heliostat-online-"))
    server = RedisServer(folder)
    server.start()
    serving: subprocess.Popen[bytes] | None = None
    try:
        source = np.random.default_rng(1)
        frame = pl.DataFrame(
            {
                "user_id": np.arange(ENTITIES),
                "event_timestamp": pl.Series([T0] * ENTITIES, dtype=pl.Datetime("us", "UTC")),
                **{item.name: source.random(ENTITIES) for item in VIEW.features},
            }
        )
        RedisWriter(RedisAddress.parse(server.url), "bench").write(VIEW, frame)
        ways, serving = _ways(server, folder, frame)
        taken = _in_turn(ways)
        loaded = _loaded_by_the_reader(server.url)
    finally:
        if serving is not None:
            os.killpg(serving.pid, 9)
            serving.wait()
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "entities": ENTITIES,
        "features": FEATURES,
        "calls": {str(rows): ROUNDS * number for rows, number in CALLS.items()},
        "ms": {name: _quantiles(times) for name, times in taken.items()},
        "ratios": _ratios(taken),
        "heavy_modules_of_the_reader": loaded,
    }


def _ways(
    server: RedisServer, folder: Path, frame: pl.DataFrame
) -> tuple[dict[str, Callable[[], Any]], subprocess.Popen[bytes]]:
    import redis as redis_py

    address = RedisAddress.parse(server.url)
    reader = RedisReader(address, [PackedView.of("bench", VIEW)])
    raw = redis_py.Redis(port=server.port)
    fields, time_field = feast_fields(VIEW)
    from heliostat.features import wire

    encode = wire.key_encoder(VIEW.keys)
    ids = {rows: list(range(7, 7 + rows)) for rows in CALLS}
    hashes = {rows: [encode([key]) + b"bench" for key in keys] for rows, keys in ids.items()}
    store, names = _feast(server, folder)
    process, port = _serve(folder)
    line = http.client.HTTPConnection("127.0.0.1", port)

    def hmget(rows: int) -> Any:
        if rows == 1:
            return raw.hmget(hashes[1][0], *fields, time_field)
        with raw.pipeline(transaction=False) as pipe:
            for key in hashes[rows]:
                pipe.hmget(key, *fields, time_field)
            return pipe.execute()

    def served(rows: int) -> Any:
        body = json.dumps({"features": names, "entities": {"user_id": ids[rows]}})
        line.request("POST", "/get-online-features", body, {"content-type": "application/json"})
        return json.loads(line.getresponse().read())

    ways: dict[str, Callable[[], Any]] = {}
    for rows in CALLS:
        entity_rows = [{"user_id": key} for key in ids[rows]]
        ways[f"raw HMGET, {rows}"] = lambda rows=rows: hmget(rows)  # type: ignore[misc]
        ways[f"our reader, {rows}"] = lambda rows=rows: reader.read({"user_id": ids[rows]}, None)  # type: ignore[misc]
        ways[f"Feast SDK, {rows}"] = lambda entity_rows=entity_rows: store.get_online_features(  # type: ignore[misc]
            names, entity_rows
        ).to_dict()
        ways[f"feast serve, {rows}"] = lambda rows=rows: served(rows)  # type: ignore[misc]
    for rows in CALLS:
        want = [frame[item.name][ids[rows]].to_list() for item in VIEW.features]
        ours, sdk = ways[f"our reader, {rows}"](), ways[f"Feast SDK, {rows}"]()
        if [list(ours[item.name]) for item in VIEW.features] != want:
            raise SystemExit("our reader reads something else")
        if [sdk[item.name] for item in VIEW.features] != want:
            raise SystemExit("Feast reads something else")
    return ways, process


def _feast(server: RedisServer, folder: Path) -> tuple[Any, list[str]]:
    os.environ.setdefault("FEAST_USAGE", "False")
    import feast
    from feast import types

    config = {
        "project": "bench", "provider": "local", "registry": str(folder / "registry.db"),
        "online_store": {"type": "redis", "connection_string": f"127.0.0.1:{server.port}"},
        "entity_key_serialization_version": 3,
    }  # fmt: skip
    (folder / "feature_store.yaml").write_text(json.dumps(config), encoding="utf-8")
    store = feast.FeatureStore(repo_path=str(folder))
    user = feast.Entity(name="user_id", join_keys=["user_id"], value_type=feast.ValueType.INT64)
    view = feast.FeatureView(
        name=VIEW.name, entities=[user],
        schema=[feast.Field(name="user_id", dtype=types.Int64)]
        + [feast.Field(name=item.name, dtype=types.Float64) for item in VIEW.features],
        source=feast.FileSource(
            name="users", path=str(folder / "none.parquet"), timestamp_field="event_timestamp"
        ),
    )  # fmt: skip
    pl.DataFrame(
        {"user_id": [0], "event_timestamp": [T0], **{item.name: [0.0] for item in VIEW.features}}
    ).write_parquet(folder / "none.parquet")
    store.apply([user, view])
    return store, [f"{VIEW.name}:{item.name}" for item in VIEW.features]


def _serve(folder: Path) -> tuple[subprocess.Popen[bytes], int]:
    port = free_ports(1)[0]
    process = subprocess.Popen(
        [
            str(Path(sys.executable).with_name("feast")), "--chdir", str(folder), "serve",
            "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
            "--max-requests", "0", "--no-access-log",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    until = time.monotonic() + 180
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return process, port
        except OSError:
            if time.monotonic() > until or process.poll() is not None:
                raise SystemExit("feast serve does not start") from None
            time.sleep(0.2)


def _in_turn(ways: dict[str, Callable[[], Any]]) -> dict[str, list[list[float]]]:
    """Each way a few calls, round after round, so that what else runs disturbs all alike."""
    taken: dict[str, list[list[float]]] = {name: [] for name in ways}
    for way in ways.values():
        for _ in range(5):
            way()
    for _ in range(ROUNDS):
        for name, way in ways.items():
            times = []
            for _ in range(CALLS[int(name.rpartition(" ")[2])]):
                began = time.perf_counter()
                way()
                times.append(time.perf_counter() - began)
            taken[name].append(times)
    return taken


def _quantiles(rounds: list[list[float]]) -> dict[str, float]:
    times = sorted(item * 1000 for group in rounds for item in group)
    return {
        "p50": round(statistics.median(times), 4),
        "p99": round(times[int(len(times) * 0.99)], 4),
    }


def _ratios(taken: dict[str, list[list[float]]]) -> dict[str, dict[str, float]]:
    """Of medians, round by round: the median over the rounds, and how far they lie apart."""
    found = {}
    for rows in CALLS:
        ours = [statistics.median(times) for times in taken[f"our reader, {rows}"]]
        for name, label in (
            ("raw HMGET", "ours_to_raw"), ("Feast SDK", "sdk_to_ours"), ("feast serve", "serve_to_ours"),
        ):  # fmt: skip
            other = [statistics.median(times) for times in taken[f"{name}, {rows}"]]
            ratios = sorted(
                a / b if label == "ours_to_raw" else b / a for a, b in zip(ours, other, strict=True)
            )
            found[f"{label}_{rows}"] = {
                "median": round(statistics.median(ratios), 3),
                "low": round(ratios[len(ratios) // 10], 3),
                "high": round(ratios[-1 - len(ratios) // 10], 3),
            }
    return found


def _loaded_by_the_reader(url: str) -> list[str]:
    program = (
        "import json, sys\n"
        "from heliostat.features.packed import PackedView\n"
        "from heliostat.features.redis_client import RedisAddress\n"
        "from heliostat.features.redis_store import RedisReader\n"
        f"view = PackedView(project='bench', name='user', version={VIEW.digest()!r},"
        f" keys=('user_id',), features={tuple(i.name for i in VIEW.features)!r},"
        f" dtypes={('float64',) * FEATURES!r}, ttl_us=None)\n"
        f"found = RedisReader(RedisAddress.parse({url!r}), [view]).read({{'user_id': [7]}}, None)\n"
        "assert None not in found['f0']\n"
        "print(json.dumps(sorted({'feast', 'pandas', 'ray', 'torch', 'mlflow'} & set(sys.modules))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    loaded: list[str] = json.loads(done.stdout)
    return loaded


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
