"""One contender of the ingest benchmark, in a process of its own: prints its figures as JSON."""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import psutil

from heliostat.data.contract import Column, Contract, Rule

NOW = datetime(2026, 6, 1, tzinfo=UTC)

FULL = Contract(
    table="raw/rows",
    keys=("id",),
    columns=(
        Column(name="id", dtype="int64", minimum=0),
        Column(name="amount", dtype="float64", minimum=0, maximum=1_000),
        Column(name="kind", dtype="string", values=("k0", "k1", "k2", "k3", "k4")),
        Column(name="code", dtype="string", pattern="[A-Z][0-9]{5}"),
        Column(name="qty", dtype="int64", nullable=True, minimum=1, maximum=50),
        Column(name="low", dtype="int64", minimum=0, maximum=100),
        Column(name="high", dtype="int64"),
        Column(name="at", dtype="timestamp", not_in_future=True),
    ),
    rules=(
        Rule(name="ordered", expression="high >= low", columns=("low", "high")),
        Rule(name="near", expression="high - low <= 10", columns=("low", "high")),
    ),
)
"""Twelve rules besides types, missing values and the key: 4 minima, 3 maxima, a set, a pattern, a
moment and two over columns."""

BARE = Contract(
    table="raw/rows",
    columns=tuple(
        Column(name=column.name, dtype=column.dtype, nullable=True) for column in FULL.columns
    ),
)
"""The same columns with their types and nothing to keep."""


def polars(path: Path, folder: Path) -> dict[str, float]:
    """What somebody would write for just these rows: read, check, drop repeats, write."""
    began, cpu_s = time.monotonic(), used_cpu_s()
    columns = pl.scan_csv(
        path,
        schema={"id": pl.Int64, "amount": pl.Float64, "kind": pl.String, "code": pl.String,
                "qty": pl.Int64, "low": pl.Int64, "high": pl.Int64, "at": pl.String},
    ).with_columns(
        at=pl.col("at").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC")
    )  # fmt: skip
    good = (
        (pl.col("id") >= 0)
        & pl.col("amount").is_between(0, 1_000)
        & pl.col("kind").is_in(["k0", "k1", "k2", "k3", "k4"])
        & pl.col("code").str.contains("^[A-Z][0-9]{5}$")
        & (pl.col("qty").is_between(1, 50) | pl.col("qty").is_null())
        & pl.col("low").is_between(0, 100)
        & (pl.col("at") <= NOW)
        & (pl.col("high") >= pl.col("low"))
        & (pl.col("high") - pl.col("low") <= 10)
    )
    columns.filter(good).unique("id", keep="first").sink_parquet(
        folder / "good.parquet", compression="zstd", compression_level=1
    )
    columns.filter(~good).sink_parquet(folder / "bad.parquet")
    return {"seconds": round(time.monotonic() - began, 3), "cpu_s": round(used_cpu_s() - cpu_s, 2)}


def heliostat(contract: Contract, path: Path, folder: Path) -> dict[str, float]:
    """The same through `ingest`, on a Ray of two CPUs that has started."""
    import ray

    from heliostat.data.ingest import ingest
    from heliostat.data.sources import CsvFiles
    from heliostat.data.tables import Catalog

    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        object_store_memory=2**30, _temp_dir=str(folder / "ray"),
    )  # fmt: skip
    ray.get([ray.remote(_warm).remote() for _ in range(2)])
    # Once per job: the driver and each worker load Ray Data. Told apart from the cost per row.
    began = time.monotonic()
    few = folder / "few.csv"
    with path.open("rb") as file:
        few.write_bytes(b"".join(file.readline() for _ in range(10)))
    begin = CsvFiles(paths=(str(few), str(few)))
    ingest(begin, BARE, Catalog(folder / "start"), run_id="start", now=NOW)
    start_s = time.monotonic() - began
    began, cpu_s = time.monotonic(), used_cpu_s()
    report = ingest(
        CsvFiles(paths=(str(path),)), contract, Catalog(folder / "tables"), run_id="bench", now=NOW
    )
    seconds, cpu_s = time.monotonic() - began, used_cpu_s() - cpu_s
    ray.shutdown()
    return {
        "seconds": round(seconds, 3),
        "start_s": round(start_s, 3),
        "cpu_s": round(cpu_s, 2),
        "rows_read": report.rows_read,
        "rows_written": report.rows_written,
        "rows_quarantined": report.rows_quarantined,
    }


def used_cpu_s() -> float:
    """CPU time of this process and all below it, Ray's own processes included."""
    found = 0.0
    me = psutil.Process()
    for process in (me, *me.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        found += times.user + times.system
    return found


def _warm() -> None:
    """Load what every task loads, so that start-up is no part of the figures."""
    __import__("heliostat.data.blocks")


if __name__ == "__main__":
    kind, path, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    if kind == "polars":
        found = polars(path, folder)
    else:
        found = heliostat(FULL if kind == "full" else BARE, path, folder)
    print(json.dumps(found))
