"""Materialization to Redis side by side: our Ray tasks and Feast's local engine.

Part of `make bench-features`; needs redis-server and, for the peer, the Python package redis.
``python -m tests.bench.features_materialize make FOLDER ROWS`` writes the data,
``python -m tests.bench.features_materialize ENGINE FOLDER URL`` brings it to a server, in a process
of its own: ``heliostat`` or ``feast``. What is timed is the call, without imports, definitions and
the start of Ray.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from heliostat.data.tables import Catalog
from heliostat.errors import Unavailable
from heliostat.features.definitions import FeatureService
from heliostat.features.packed import PackedView
from heliostat.features.redis_client import RedisAddress, RedisConnection
from heliostat.features.redis_store import RedisReader
from heliostat.features.stores import Store
from heliostat.testing.redis import RedisServer
from tests.bench import results
from tests.bench.features_online import FEATURES, VIEW

ENGINES = ("heliostat", "feast")
ROWS_PER_ENTITY = 2
T0 = datetime(2026, 1, 1, tzinfo=UTC)
END = T0 + timedelta(days=30)
CHUNK = 500_000
KILL_AFTER = (0.2, 0.5, 0.8)
"""Shares of the entities that are in the server when it is killed."""


SERVICE = FeatureService(project="bench", name="bench", views=(VIEW,))


def make(folder: Path, rows: int) -> None:
    """Write the view's table, and the same as one Parquet file for Feast."""
    catalog = Catalog(folder / "tables")
    source = np.random.default_rng(1)
    staged, schema = [], None
    for part, start in enumerate(range(0, rows, CHUNK)):
        size = min(CHUNK, rows - start)
        micros = source.integers(0, 30 * 86_400 * 1_000_000, size)
        frame = pl.DataFrame(
            {
                "user_id": source.integers(0, max(1, rows // ROWS_PER_ENTITY), size),
                "event_timestamp": pl.Series(micros).cast(pl.Duration("us")) + T0,
                **{item.name: source.random(size) for item in VIEW.features},
            }
        )
        staged.append(catalog.stage(VIEW.table, frame, run_id="made", part=part))
        schema = frame.schema
    assert schema is not None
    catalog.commit(VIEW.table, staged, schema, run_id="made", mode="overwrite")
    catalog.read(VIEW.table).write_parquet(folder / "user.parquet")


def bring(engine: str, folder: Path, url: str) -> dict[str, Any]:
    """Bring all of it to the server once."""
    run = _feast(folder, url) if engine == "feast" else _heliostat(folder, url)
    began = time.perf_counter()
    run()
    return {"wall_s": round(time.perf_counter() - began, 3)}


def _heliostat(folder: Path, url: str) -> Any:
    import ray

    from heliostat.features.materialize_ray import materialize_on_ray

    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        object_store_memory=512 * 1024**2,
        _temp_dir=tempfile.mkdtemp(prefix="ht-", dir="/tmp"),
        runtime_env={"env_vars": {"PYTHONPATH": f"{results.ROOT / 'platform'}:{results.ROOT}"}},
    )  # fmt: skip
    while len(set(ray.get([ray.remote(_warm).remote() for _ in range(2)]))) < 2:
        pass  # until each of the two workers has run it
    store = Store(where=url, file=folder / "unused", project="bench")
    catalog = Catalog(folder / "tables")
    return lambda: materialize_on_ray(SERVICE, catalog, store, start=None, end=END, now=END)


def _warm() -> int:
    """Have a worker import what it needs, as a cluster's workers have; say which it is."""
    import polars as pl  # noqa: F401

    import heliostat.features.materialize_ray  # noqa: F401

    time.sleep(0.2)
    return os.getpid()


def _feast(folder: Path, url: str) -> Any:
    os.environ.setdefault("FEAST_USAGE", "False")
    import feast
    from feast import types

    address = RedisAddress.parse(url)
    repository = Path(tempfile.mkdtemp(dir=folder))
    config = {
        "project": "bench", "provider": "local", "registry": str(repository / "registry.db"),
        "online_store": {
            "type": "redis", "connection_string": f"{address.host}:{address.port}",
        },
        "offline_store": {"type": "file"}, "entity_key_serialization_version": 3,
    }  # fmt: skip
    (repository / "feature_store.yaml").write_text(json.dumps(config), encoding="utf-8")
    store = feast.FeatureStore(repo_path=str(repository))
    user = feast.Entity(name="user_id", join_keys=["user_id"], value_type=feast.ValueType.INT64)
    view = feast.FeatureView(
        name=VIEW.name, entities=[user],
        schema=[feast.Field(name="user_id", dtype=types.Int64)]
        + [feast.Field(name=item.name, dtype=types.Float64) for item in VIEW.features],
        source=feast.FileSource(
            name="users", path=str(folder / "user.parquet"), timestamp_field="event_timestamp"
        ),
    )  # fmt: skip
    store.apply([user, view])
    return lambda: store.materialize(start_date=T0 - timedelta(days=1), end_date=END)


def measure(rows: int, rounds: int) -> dict[str, Any]:
    """Each engine on an empty server, in turn; then kill the server in the middle of writing."""
    folder = Path(tempfile.mkdtemp(prefix="heliostat-materialize-"))
    taken: dict[str, list[float]] = {engine: [] for engine in ENGINES}
    try:
        _child("make", str(folder), str(rows))
        for _ in range(rounds):
            for engine in ENGINES:
                server = _server(folder, keeps_data=False)
                try:
                    told = json.loads(_child(engine, str(folder), server.url))
                    _all_there(folder, server.url, packed=engine == "heliostat")
                finally:
                    server.kill()
                taken[engine].append(told["wall_s"])
        kills = json.loads(_child("kills", str(folder), "-"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    ratios = [
        theirs / ours for ours, theirs in zip(*(taken[name] for name in ENGINES), strict=True)
    ]
    return {
        "rows": rows,
        "features": FEATURES,
        "wall_s": taken,
        "rows_per_s": {
            name: round(rows / statistics.median(found)) for name, found in taken.items()
        },
        "ours_to_feast": round(statistics.median(ratios), 2),
        "ours_to_feast_by_round": [round(item, 2) for item in ratios],
        "kills": kills,
    }


def kills(folder: Path) -> dict[str, Any]:
    """Kill the server at several shares of the work; count what is told, recorded and in the end."""
    from heliostat.features.materialize_ray import last_end

    out: dict[str, Any] = {
        "kills": 0, "reported": 0, "recorded_too_early": 0, "shares_kept": 0, "different_at_end": 0,
    }  # fmt: skip
    truth = _truth(folder)
    for share in KILL_AFTER:
        server = _server(folder, keeps_data=True)
        store = Store(where=server.url, file=folder / "unused", project="bench")
        run = _materialize(folder, store)
        killer = threading.Thread(
            target=_kill_at, args=(server, round(2 * share * len(truth))), daemon=True
        )
        killer.start()
        try:
            run()
        except Unavailable:
            out["reported"] += 1
        killer.join()
        out["kills"] += 1
        server.start()
        out["recorded_too_early"] += last_end(SERVICE, store) is not None
        out["shares_kept"] += len(store.open().notes())
        run()
        out["different_at_end"] += _different(truth, server.url)
        out["recorded_at_end"] = out.get("recorded_at_end", 0) + (last_end(SERVICE, store) == END)
        server.kill()
    return out


def _materialize(folder: Path, store: Store) -> Any:
    import ray

    from heliostat.features.materialize_ray import materialize_on_ray

    if not ray.is_initialized():
        _heliostat(folder, store.where)
    catalog = Catalog(folder / "tables")
    rows = catalog.num_rows(VIEW.table) // 8
    return lambda: materialize_on_ray(
        SERVICE, catalog, store, start=None, end=END, now=END, rows_per_task=rows
    )


def _kill_at(server: RedisServer, num_keys: int) -> None:
    """Kill it as soon as it holds so many keys: two for each entity."""
    connection = RedisConnection(RedisAddress.parse(server.url), timeout_s=5.0)
    while connection.call([(b"DBSIZE",)])[0] < num_keys:
        time.sleep(0.001)
    server.kill()


def _truth(folder: Path) -> pl.DataFrame:
    rows = pl.read_parquet(folder / "user.parquet").sort("event_timestamp")
    return rows.unique(subset="user_id", keep="last").sort("user_id")


def _different(truth: pl.DataFrame, url: str) -> int:
    """Entities whose record is not that of their newest row."""
    reader = RedisReader(RedisAddress.parse(url), [PackedView.of("bench", VIEW)], timeout_s=30.0)
    different = 0
    for part in truth.iter_slices(10_000):
        found = reader.read({"user_id": part["user_id"].to_list()}, None)
        got = pl.DataFrame(found, schema={item.name: pl.Float64 for item in VIEW.features})
        same = pl.all_horizontal(
            part[item.name].eq_missing(got[item.name]) for item in VIEW.features
        )
        different += int((~pl.select(same).to_series()).sum())
    return different


def _all_there(folder: Path, url: str, *, packed: bool) -> None:
    """Every entity has its hash, and a record where ours brought it; a sample has its values."""
    truth = _truth(folder)
    (size,) = RedisConnection(RedisAddress.parse(url), timeout_s=5.0).call([(b"DBSIZE",)])
    # Ours leaves one key more: what was recorded.
    wanted = 2 * truth.height + 1 if packed else truth.height
    if size != wanted:
        raise SystemExit(f"{size} keys in Redis: must be {wanted}")
    if packed and _different(truth[random.Random(1).sample(range(truth.height), 500)], url):
        raise SystemExit("values in Redis are not those of the table")


def _server(folder: Path, *, keeps_data: bool) -> RedisServer:
    server = RedisServer(Path(tempfile.mkdtemp(dir=folder)), keeps_data=keeps_data)
    server.start()
    return server


def _child(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.features_materialize", *arguments],
        cwd=results.ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr[-2000:]}")
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return lines[-1] if lines else ""


if __name__ == "__main__":
    name, place = sys.argv[1], Path(sys.argv[2])
    if name == "make":
        make(place, int(sys.argv[3]))
    elif name == "kills":
        print(json.dumps(kills(place)))
    else:
        print(json.dumps(bring(name, place, sys.argv[3])))
