"""Measure ingest beside a single-purpose Polars script, and upkeep of a large table.

``make bench-data`` prints one table for 1 M rows in two rounds; ``make prove-data`` takes 1, 10 and
20 M rows, kills writers 20 times each and keeps all figures in ``tests/bench/results/data.json``.
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
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "platform"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import memory
import polars as pl

from tests.bench import results

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "tests" / "bench" / "results" / "data.json"
RUNNER = Path(__file__).with_name("data_run.py")


def rows_file(folder: Path, num_rows: int) -> Path:
    """Write a CSV of the given number of rows; one in 1,000 breaks a rule."""
    path = folder / f"rows-{num_rows}.csv"
    step = 1_000_000
    with path.open("wb") as file:
        for first in range(0, num_rows, step):
            number = min(step, num_rows - first)
            row = pl.int_range(first, first + number, eager=True)
            frame = pl.DataFrame({"id": row}).with_columns(
                amount=pl.when(pl.col("id") % 1000 == 7).then(-1.0).otherwise(
                    (pl.col("id") * 7919 % 100_000) / 100
                ),
                kind=pl.lit("k") + (pl.col("id") % 5).cast(pl.String),
                code=pl.lit("A") + (pl.col("id") % 90_000 + 10_000).cast(pl.String),
                qty=pl.when(pl.col("id") % 11 != 0).then(pl.col("id") % 50 + 1),
                low=pl.col("id") % 90,
                high=pl.col("id") % 90 + 5,
                at=pl.datetime(2025, 1, 1) + pl.duration(seconds=pl.col("id") % 30_000_000),
            )  # fmt: skip
            file.write(
                frame.write_csv(
                    include_header=first == 0, datetime_format="%Y-%m-%dT%H:%M:%SZ"
                ).encode()
            )
    return path


def run(kind: str, path: Path) -> dict[str, Any]:
    """Run one contender in processes of its own; seconds are its own, without Ray's start."""
    with tempfile.TemporaryDirectory(prefix="ht-", dir="/tmp") as folder:
        mark = f"HELIOSTAT_BENCH={folder}"
        environment = {
            **os.environ,
            "HELIOSTAT_BENCH": folder,
            "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}",
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
            "POLARS_MAX_THREADS": "2",
        }
        load = os.getloadavg()[0]
        with memory.Sampler(lambda: memory.marked([mark])) as sampler:
            done = subprocess.run(
                [sys.executable, str(RUNNER), kind, str(path), folder],
                env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
            )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{kind}: {done.stdout[-2000:]}{done.stderr[-3000:]}")
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        found["load_before"] = round(load, 2)
        return {**found, "peak_gib": round(sampler.peak.sum_bytes / 2**30, 2)}


def ingest(sizes: list[int], rounds: int, folder: Path) -> dict[str, Any]:
    """Ingest with all rules and with none, and the Polars script, in turn; every round is kept."""
    found: dict[str, Any] = {}
    for size in sizes:
        path = rows_file(folder, size)
        kinds = ("full", "bare", "polars")
        raw: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
        for number in range(rounds):
            for kind in kinds if number % 2 == 0 else reversed(kinds):
                raw[kind].append(run(kind, path))
                print(f"{size:>10,} rows  {kind:<7} {raw[kind][-1]}", flush=True)
        path.unlink()
        # Other work on the machine only ever adds time: the least of the rounds is nearest to
        # what each needs by itself. All rounds are kept.
        least = {k: min(item["seconds"] for item in raw[k]) for k in kinds}
        cpu = {k: min(item["cpu_s"] for item in raw[k]) for k in kinds}
        with_start = min(item["seconds"] + item["start_s"] for item in raw["full"])
        for item in raw["full"]:
            assert item["rows_read"] == item["rows_written"] + item["rows_quarantined"] == size
        found[str(size)] = {
            "rounds": raw,
            "seconds": least,
            "rows_per_s": round(size / least["full"]),
            "us_per_row": round(1e6 * least["full"] / size, 3),
            "cpu_us_per_row": round(1e6 * cpu["full"] / size, 3),
            "contract_share_of_cpu": round(1 - cpu["bare"] / cpu["full"], 3),
            "cpu_of_polars_against_ours": round(cpu["polars"] / cpu["full"], 3),
            "contract_share": round(1 - least["bare"] / least["full"], 3),
            "speed_against_polars": round(least["polars"] / least["full"], 3),
            "start_s": min(item["start_s"] for item in raw["full"]),
            "speed_against_polars_with_start": round(least["polars"] / with_start, 3),
            "peak_gib": max(item["peak_gib"] for item in raw["full"]),
        }
    return found


def opening(num_versions: int, files_each: int, folder: Path) -> dict[str, Any]:
    """Open a table of many versions before and after upkeep, beside a fresh one of its rows."""
    from heliostat.data.tables import Catalog

    catalog = Catalog(folder / "tables")
    began = time.monotonic()
    many_versions(catalog, num_versions, files_each)
    built_s = round(time.monotonic() - began, 1)
    return {
        "versions": num_versions,
        "files": num_versions * files_each,
        "build_s": built_s,
        **opened(catalog),
    }


def many_versions(catalog: Any, num_versions: int, files_each: int) -> None:
    """Write the table `many`, one row in each file."""
    from heliostat.data import commits, reading

    frame = pl.DataFrame({"id": [1]})
    catalog.write("many", frame, run_id="first")
    folder_of = catalog.storage("many")
    # One open table for all commits: opening it for each would take most of the time.
    table = reading.open_table(folder_of)
    for version in range(1, num_versions):
        files = [
            catalog.stage("many", frame, run_id=f"r{version}", part=part)
            for part in range(files_each)
        ]
        change = commits.Change(
            add=tuple(files), mode="append", columns=reading.delta_schema(frame.schema)
        )
        run_id = f"r{version}"
        assert commits.attempt("many", folder_of, table, change, run_id=run_id, details={})
        table.update_incremental()


def opened(catalog: Any) -> dict[str, Any]:
    """Open the table `many` before and after upkeep, beside a fresh one of its rows."""
    from datetime import timedelta

    from heliostat.data.upkeep import optimize, plan_vacuum, vacuum

    before = _opened_ms(catalog, ("many",), times=3)
    began = time.monotonic()
    optimize(catalog, "many", run_id="o")
    optimize_s = round(time.monotonic() - began, 1)
    catalog.write("fresh", catalog.read("many"), run_id="f")
    optimized = _opened_ms(catalog, ("many", "fresh"))
    later = datetime.now(UTC) + timedelta(days=30)
    vacuum(catalog, plan_vacuum(catalog, "many", now=later, retention=timedelta(0)))
    vacuumed = _opened_ms(catalog, ("many", "fresh"))
    return {
        "optimize_s": optimize_s,
        "before_ms": before,
        "after_optimize_ms": optimized,
        "after_vacuum_ms": vacuumed,
        "after_optimize_against_fresh": _ratio(optimized),
        "after_vacuum_against_fresh": _ratio(vacuumed),
    }


def _opened_ms(catalog: Any, names: tuple[str, ...], *, times: int = 100) -> dict[str, Any]:
    """Openings that read all rows, of each table in turn: the least time, and the median."""
    taken: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(times):
        for name in names:
            began = time.perf_counter()
            catalog.read(name)
            taken[name].append(1000 * (time.perf_counter() - began))
    return {
        name: {"least": round(min(found), 2), "median": round(statistics.median(found), 2)}
        for name, found in taken.items()
    }


def _ratio(taken: dict[str, Any]) -> float:
    """Of the least times: other work on the machine only ever adds to them."""
    return round(taken["many"]["least"] / taken["fresh"]["least"], 2)


def main() -> int:
    """Measure, print and, if asked, keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--versions", type=int, default=50)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--operations", nargs="+", default=["merge", "optimize", "ingest"])
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--parts", nargs="+", default=["ingest", "opening", "kills"])
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="heliostat-data-", dir=os.environ.get("TMPDIR")))
    result: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    try:
        if "ingest" in given.parts:
            # Sizes can be measured in several calls: each keeps those of the others.
            result.setdefault("ingest", {}).update(ingest(given.rows, given.rounds, folder))
            rates = [item["us_per_row"] for item in result["ingest"].values()]
            result["us_per_row_spread"] = round(max(rates) / min(rates) - 1, 3)
        if "opening" in given.parts:
            result["opening"] = opening(given.versions, 10, folder)
        if "kills" in given.parts and given.kills:
            found = kills(given.kills, given.operations)
            result.setdefault("kills", {}).update(found)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    show(result)
    if given.keep:
        keep(result, given)
    return 0


def kills(rounds: int, operations: list[str]) -> dict[str, Any]:
    """Kill each kind of writer that many times, at moments drawn with a fixed seed."""
    from tests.bench.table_kills import as_json, kill_rounds

    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    }
    found = {}
    for operation in operations:
        with _ray(environment) if operation == "ingest" else nullcontext():
            found[operation] = as_json(kill_rounds(operation, rounds, 20, environment))
        print(operation, found[operation], flush=True)
    return found


@contextmanager
def _ray(environment: dict[str, str]) -> Iterator[None]:
    """A Ray that outlives the writers that are killed; they find it in their environment."""
    os.environ.update({key: value for key, value in environment.items() if key.startswith("RAY_")})
    import ray

    with tempfile.TemporaryDirectory(prefix="ht-", dir="/tmp") as folder:
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
            object_store_memory=2**29, _temp_dir=folder,
            runtime_env={"env_vars": {"PYTHONPATH": environment["PYTHONPATH"]}},
        )  # fmt: skip
        environment["RAY_TEST_ADDRESS"] = ray.get_runtime_context().gcs_address
        try:
            yield
        finally:
            ray.shutdown()


def show(result: dict[str, Any]) -> None:
    """Print one table."""
    titles = ("rows/s", "us/row", "contract", "x Polars", "+ start", "GiB")
    print(f"\n{'rows':>12} " + " ".join(f"{title:>10}" for title in titles))
    for size, item in result.get("ingest", {}).items():
        print(
            f"{int(size):>12,} {item['rows_per_s']:>10,} {item['us_per_row']:>10} "
            f"{item['contract_share']:>10.1%} {item['speed_against_polars']:>10} "
            f"{item.get('speed_against_polars_with_start', '-'):>10} {item['peak_gib']:>10}"
        )
    for key in ("opening", "kills"):
        if key in result:
            print(f"{key}: {json.dumps(result[key])}")


def keep(result: dict[str, Any], given: argparse.Namespace) -> None:
    """Write the results file, with what is needed to believe it.

    Parts that this call did not measure are those that the file had.
    """
    about = {
        "command": "make prove-data",
        "arguments": vars(given),
        "commit": results.commit(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
    }
    # Parts may come from several calls: each says which.
    measured = dict(result.get("measured", {}))
    for part in given.parts:
        measured[part] = {"commit": about["commit"], "arguments": vars(given)}
    result = {**result, "measured": measured}
    RESULT.write_text(json.dumps({**result, **about}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
