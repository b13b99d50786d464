"""Features beside their peers, in turn: `make bench-features`; long runs: `make prove-features`.

Offline: historical retrieval by Polars written by hand, by our store under Feast's SDK, and by
Feast's own stores. Online: raw Redis, our reader, Feast's SDK, ``feast serve``; then a gateway on
Redis under load, beside inputs given, and while the server hangs and is killed. Materialization:
Ray tasks beside Feast's local engine, and a server killed in the middle of writing. Writes
``tests/bench/results/features.json``; what is not run keeps its last figures.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench import (
    feast_duckdb,
    features_gateway,
    features_materialize,
    features_online,
    memory,
    results,
)

ROOT = Path(__file__).resolve().parents[2]
ENGINES = ("polars", "heliostat", "feast-duckdb", "feast-file")
PARTS = ("offline", "online", "gateway", "materialize", "large")


def main() -> int:
    """Measure, write the results file, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS[:-1]))
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--materialize-rows", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--large", type=int, nargs="+", default=[1_000_000, 20_000_000])
    options = parser.parse_args()
    path = ROOT / "tests" / "bench" / "results" / "features.json"
    figures: dict[str, Any] = {}
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        figures = {part: before[part] for part in PARTS if part in before}
    for part in options.parts:
        if part == "offline":
            figures[part] = _offline(options.rows, options.rounds)
        elif part == "online":
            figures[part] = features_online.measure()
        elif part == "gateway":
            figures[part] = features_gateway.measure()
        elif part == "materialize":
            figures[part] = features_materialize.measure(options.materialize_rows, options.rounds)
        else:
            figures[part] = _large(options.large, options.rounds)
        figures[part] |= {
            "load_average": round(os.getloadavg()[0], 1), "commit": results.commit(),
            "rounds": options.rounds,
        }  # fmt: skip
        print(json.dumps({part: figures[part]}, indent=2), flush=True)
    results.write(
        "features", "make bench-features; make prove-features", rounds=options.rounds,
        figures=figures,
    )  # fmt: skip
    return 0


def _offline(rows: int, rounds: int) -> dict[str, Any]:
    """Each engine in a process of its own, round after round; CPU time of the process."""
    folder = Path(tempfile.mkdtemp(prefix="heliostat-offline-"))
    try:
        pythons: dict[str, str | None] = dict.fromkeys(ENGINES, sys.executable)
        pythons["feast-duckdb"], duckdb = feast_duckdb.interpreter(folder)
        taken: dict[str, list[dict[str, Any]]] = {name: [] for name in ENGINES if pythons[name]}
        _child("make", str(folder / "data"), str(rows))
        for _ in range(rounds):
            for engine, found in taken.items():
                told = _child(engine, str(folder / "data"), python=pythons[engine])
                found.append(json.loads(told))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    truth = taken["polars"][0]
    base = statistics.median(item["cpu_s"] for item in taken["polars"])
    return {
        "rows": rows,
        "feast_duckdb": duckdb,
        "engines": {
            engine: {
                "cpu_s": [item["cpu_s"] for item in found],
                "wall_s": [item["wall_s"] for item in found],
                "cpu_to_polars": round(
                    statistics.median(item["cpu_s"] for item in found) / base, 2
                ),
                "rows_out": found[0]["rows"],
                "is_right": all(
                    item["rows"] == rows
                    and item["nulls"] == truth["nulls"]
                    and abs(item["sum"] - truth["sum"]) < 1e-6 * abs(truth["sum"])
                    for item in found
                ),
            }
            for engine, found in taken.items()
        },
    }


def _large(sizes: list[int], rounds: int) -> dict[str, Any]:
    """Our store on Ray for each size: time and CPU time for each row, and memory at the peak."""
    found = {}
    for rows in sizes:
        folder = Path(tempfile.mkdtemp(prefix="heliostat-offline-"))
        taken = []
        try:
            _child("make", str(folder / "data"), str(rows))
            with memory.Sampler(lambda: memory.marked([str(ROOT)])) as sampler:
                taken.extend(
                    json.loads(_child("heliostat-ray", str(folder / "data"))) for _ in range(rounds)
                )
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        wall_s, cpu_s = (
            statistics.median(item[name] for item in taken) for name in ("wall_s", "cpu_s")
        )
        found[str(rows)] = {
            **{name: taken[0][name] for name in ("rows", "nulls", "sum")},
            "wall_s": wall_s,
            "wall_s_rounds": [item["wall_s"] for item in taken],
            "cpu_s": cpu_s,
            "cpu_s_rounds": [item["cpu_s"] for item in taken],
            "wall_us_per_row": round(wall_s / rows * 1e6, 3),
            "cpu_us_per_row": round(cpu_s / rows * 1e6, 3),
            "peak_gib": round(sampler.peak.sum_bytes / 2**30, 2),
        }
    costs = [item["cpu_us_per_row"] for item in found.values()]
    return {"sizes": found, "cpu_per_row_last_to_first": round(costs[-1] / costs[0], 3)}


def _child(*arguments: str, python: str | None = None) -> str:
    done = subprocess.run(
        [python or sys.executable, "-m", "tests.bench.features_offline", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)}: {done.stderr[-2000:]}")
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return lines[-1] if lines else ""


if __name__ == "__main__":
    sys.exit(main())
