"""One engine's historical retrieval, in a process of its own; prints what it took as JSON.

``python -m tests.bench.features_offline make FOLDER ROWS`` writes the data,
``python -m tests.bench.features_offline ENGINE FOLDER`` retrieves. Engines: ``polars`` (written by
hand), ``heliostat``, ``heliostat-ray``, ``feast-file``, ``feast-duckdb``.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

VIEWS = 3
FEATURES = 5
ROWS_PER_ENTITY = 10
TTL = timedelta(days=7)
T0 = datetime(2026, 1, 1, tzinfo=UTC)
SPAN_S = 30 * 86_400
CHUNK = 1_000_000
STORES = {
    "heliostat": "heliostat.features.feast_offline.HeliostatOfflineStore",
    "heliostat-ray": "heliostat.features.feast_offline.HeliostatOfflineStore",
    "feast-file": "file",
    "feast-duckdb": "duckdb",
}


def make(folder: Path, rows: int) -> None:
    """Write the entity rows and as many rows for each view, a million at a time."""
    folder.mkdir(parents=True)
    entities = max(1, rows // ROWS_PER_ENTITY)
    for number, name in enumerate(["entities", *(f"view{index}" for index in range(VIEWS))]):
        source = np.random.default_rng(number)
        writer: Any = None
        for start in range(0, rows, CHUNK):
            size = min(CHUNK, rows - start)
            seconds = source.integers(0, SPAN_S * 1_000_000, size)
            columns: dict[str, Any] = {
                "user": source.integers(0, entities, size),
                "event_timestamp": pl.Series(seconds).cast(pl.Duration("us")) + T0,
            }
            if number:
                columns |= {f"v{number - 1}_f{n}": source.random(size) for n in range(FEATURES)}
            table = pl.DataFrame(columns).to_arrow()
            if writer is None:
                writer = pq.ParquetWriter(folder / f"{name}.parquet", table.schema)
            writer.write_table(table)
        writer.close()


def by_hand(folder: Path) -> pl.DataFrame:
    """What somebody writes who knows Polars and this data."""
    rows = pl.read_parquet(folder / "entities.parquet").with_row_index("row")
    left = rows.sort("event_timestamp")
    for number in range(VIEWS):
        values = pl.read_parquet(folder / f"view{number}.parquet").sort("event_timestamp")
        left = left.join_asof(
            values, on="event_timestamp", by="user", tolerance=TTL, check_sortedness=False
        )
    return left.sort("row").drop("row")


def _store(engine: str, folder: Path) -> Any:
    import feast
    from feast import types

    repository = folder / engine
    repository.mkdir(exist_ok=True)
    offline: dict[str, Any] = {"type": STORES[engine]}
    if engine == "heliostat-ray":
        offline["engine"] = "ray"
    config = {
        "project": "bench", "provider": "local", "registry": str(repository / "registry.db"),
        "online_store": {"type": "sqlite", "path": str(repository / "online.db")},
        "offline_store": offline, "entity_key_serialization_version": 3,
    }  # fmt: skip
    (repository / "feature_store.yaml").write_text(json.dumps(config), encoding="utf-8")
    store = feast.FeatureStore(repo_path=str(repository))
    user = feast.Entity(name="user", join_keys=["user"], value_type=feast.ValueType.INT64)
    views = [
        feast.FeatureView(
            name=f"view{number}", entities=[user], ttl=TTL,
            schema=[feast.Field(name="user", dtype=types.Int64)]
            + [feast.Field(name=f"v{number}_f{n}", dtype=types.Float64) for n in range(FEATURES)],
            source=feast.FileSource(
                name=f"source{number}", path=str(folder / f"view{number}.parquet"),
                timestamp_field="event_timestamp",
            ),
        )
        for number in range(VIEWS)
    ]  # fmt: skip
    store.apply([user, *views])
    return store


def retrieve(engine: str, folder: Path) -> dict[str, Any]:
    """Do it once and say what it took; importing, defining and Ray's start are not part of it."""
    names = [f"view{number}:v{number}_f{n}" for number in range(VIEWS) for n in range(FEATURES)]
    entities: Any = None
    store: Any = None
    if engine == "polars":
        import pandas as pd  # noqa: F401 - so that importing it is not measured
    else:
        store = _store(engine, folder)
        entities = pq.read_table(folder / "entities.parquet").to_pandas()
    if engine == "heliostat-ray":
        _warm(folder / "warm", names)
    began, used = time.perf_counter(), _cpu_s()
    if engine == "polars":
        found = by_hand(folder).to_arrow()
    else:
        found = store.get_historical_features(entities, names).to_arrow()
    took, used = time.perf_counter() - began, _cpu_s() - used
    return {
        "wall_s": round(took, 3),
        "cpu_s": round(used, 3),
        "rows": found.num_rows,
        **_sums(found, [name.partition(":")[2] for name in names]),
    }


def _warm(folder: Path, names: list[str]) -> None:
    """Start Ray and have its workers import what they need, as a cluster's workers have."""
    if not folder.exists():
        make(folder, 20_000)
    entities = pq.read_table(folder / "entities.parquet").to_pandas()
    _store("heliostat-ray", folder).get_historical_features(entities, names).to_arrow()


def _sums(table: pa.Table, names: list[str]) -> dict[str, Any]:
    """Column by column: a second copy of the whole answer would be the peak that is measured."""
    nulls, total = 0, 0.0
    for name in names:
        column = pl.from_arrow(table.column(name))
        assert isinstance(column, pl.Series)
        values = column.fill_nan(None)
        nulls += values.null_count()
        total += float(values.sum())
    return {"nulls": nulls, "sum": round(total, 3)}


def _cpu_s() -> float:
    """Of this process and all below it, Ray's among them; of one that ended meanwhile it is lost."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    found = own.ru_utime + own.ru_stime
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            found += times.user + times.system
    return found


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        os.environ.setdefault("FEAST_USAGE", "False")
        print(json.dumps(retrieve(sys.argv[1], Path(sys.argv[2]))))
