"""Score many rows in a batch job and by a hand-written loop, in turn: `make bench-batch`.

Both use two processes, the same table, the same verified model and the same way to turn columns
into tensors; the loop reads a file, scores it and writes the answers, and nothing else: no commit,
no resumption, no schema. Ray is started before the clock, its workers no nicer than the loop's. Two
models: the platform's network as it is made for a workload, and one sum of columns, beside which
all else is what shows. Writes ``tests/bench/results/batch.json``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from heliostat.data.tables import Catalog
from heliostat.inference.batch import BatchModel, predict
from heliostat.inference.columns import score
from heliostat.inference.predictor import Predictor
from heliostat.registry import signing
from heliostat.registry.package import ModelInput
from heliostat.testing.packages import write_package
from heliostat.training.recipe import TrainRecipe, Validation
from tests.bench import memory, results

ROOT = Path(__file__).resolve().parents[2]
NUMERIC = tuple(f"n{number}" for number in range(12))
CATEGORICAL = tuple(f"c{number}" for number in range(4))
WORDS = tuple(f"word-{number}" for number in range(50))
ROWS_PER_FILE = 250_000
PROCESSES = 2
MODELS = {"network": "network/package", "sum": "sum"}
"""Folders of the packages."""


def main() -> int:
    """Measure, write the results file; 0 if every row was scored each time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="heliostat-batch-"))
    try:
        prepare(folder, options.rows)
        models = {model: _measure(folder, model, options.rows, options.rounds) for model in MODELS}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    figures = {"rows": options.rows, "processes": PROCESSES, "models": models}
    results.write("batch", "make bench-batch", rounds=options.rounds, figures=figures)
    print(f"{'':>8} {'loop rows/s':>14} {'batch rows/s':>14} {'ratio':>6} {'peak GiB':>9}")
    for model, found in models.items():
        rates = found["rows_per_s"]
        print(
            f"{model:>8} {rates['loop']:>14,} {rates['batch']:>14,} {found['batch_to_loop']:>6}"
            f" {found['peak_gib']:>9}"
        )
    return 0


def prepare(folder: Path, rows: int) -> None:
    """Write the models and the table, a file at a time."""
    inputs = [ModelInput(name=name, kind="numeric") for name in NUMERIC]
    inputs += [ModelInput(name=name, kind="categorical", vocabulary=WORDS) for name in CATEGORICAL]
    write_package(folder / MODELS["sum"], model="wide", inputs=inputs, keys_dir=folder / "keys")
    _write_network(folder / "network")
    catalog = Catalog(folder / "tables")
    rng = np.random.default_rng(5)
    files = []
    schema: Any = None
    for part, start in enumerate(range(0, rows, ROWS_PER_FILE)):
        size = min(ROWS_PER_FILE, rows - start)
        frame = _made(rng, size).insert_column(0, pl.Series("id", np.arange(start, start + size)))
        schema = frame.schema
        files.append(catalog.stage("rows", frame, run_id="made", part=part))
    catalog.commit("rows", files, schema, run_id="made", mode="overwrite")


def _made(rng: np.random.Generator, size: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            **{name: rng.normal(size=size) for name in NUMERIC},
            **{name: rng.choice(WORDS, size) for name in CATEGORICAL},
        }
    )


def _write_network(folder: Path) -> None:
    """Train the platform's network a little, with the layers of the reference workload; sign it."""
    import torch

    from tests.bench import gpu_place

    recipe = TrainRecipe(
        label="y", numeric=NUMERIC, categorical=CATEGORICAL, epochs=1, num_workers=1,
        params={"hidden": 64, "blocks": 1, "dropout": 0.2}, validation=Validation(share=0.0),
    )  # fmt: skip
    frame = _made(np.random.default_rng(7), 20_000)
    frame = frame.with_columns(y=(pl.col(NUMERIC[0]) > 0).cast(pl.Int8))
    made = gpu_place.package(recipe, frame, folder, torch.device("cpu"))
    signing.sign(made, folder.parent / "keys")


def _measure(folder: Path, model: str, rows: int, rounds: int) -> dict[str, Any]:
    import ray

    taken: dict[str, list[float]] = {"loop": [], "batch": []}
    # As the platform does. Else Ray starts its workers 15 steps nicer than the loop's processes.
    os.environ.update({"RAY_worker_niceness": "0"})
    ray.init(
        address="local", num_cpus=PROCESSES, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}"}},
    )  # fmt: skip
    with memory.Sampler(lambda: memory.marked([str(ROOT)])) as sampler:
        for number in range(rounds):
            for kind in ("loop", "batch") if number % 2 == 0 else ("batch", "loop"):
                target = f"{model}-{kind}-{number}"
                began = time.perf_counter()
                score_all = _loop if kind == "loop" else _batch
                done = score_all(folder, folder / MODELS[model], target)
                taken[kind].append(round(time.perf_counter() - began, 2))
                if done != rows:
                    raise SystemExit(f"{kind}: {done} rows of {rows}")
                print(f"{model} {kind} {taken[kind][-1]} s", flush=True)
    ray.shutdown()
    ratios = [loop / batch for loop, batch in zip(taken["loop"], taken["batch"], strict=True)]
    return {
        "seconds": taken,
        "rows_per_s": {
            kind: round(rows / statistics.median(seconds)) for kind, seconds in taken.items()
        },
        "batch_to_loop": round(statistics.median(ratios), 3),
        "batch_to_loop_rounds": [round(ratio, 3) for ratio in ratios],
        "peak_gib": round(sampler.peak.sum_bytes / 2**30, 2),
        "load_average": os.getloadavg()[0],
    }


def _batch(folder: Path, package: Path, target: str) -> int:
    model = BatchModel(
        name="wide", version="1", package=package, keys=folder / "keys",
        digest=signing.verify(package, folder / "keys"),
    )  # fmt: skip
    catalog = Catalog(folder / "tables")
    report = predict(model, catalog, "rows", target, keep=("id",), num_workers=PROCESSES)
    return catalog.num_rows(target, report.version)


def _loop(folder: Path, package: Path, target: str) -> int:
    (folder / target).mkdir()
    catalog = Catalog(folder / "tables")
    tasks = [(folder, path, folder / target / path.name) for path in catalog.files("rows")]
    with multiprocessing.get_context("spawn").Pool(PROCESSES, _load, (folder, package)) as pool:
        return sum(pool.imap_unordered(_score_file, tasks))


_model: list[Predictor] = []


def _load(folder: Path, package: Path) -> None:
    _model[:] = [Predictor.load(package, folder / "keys")]


def _score_file(task: tuple[Path, Path, Path]) -> int:
    _, source, target = task
    frame = pl.read_parquet(source, columns=["id", *NUMERIC, *CATEGORICAL])
    scores = pl.Series("score", score(_model[0], frame))
    frame.select("id").with_columns(scores).write_parquet(target, compression="zstd")
    return frame.height


if __name__ == "__main__":
    sys.exit(main())
