"""Score a table in a process of its own, so that a test may kill it.

Usage: ``python -m tests.local.batch_story RAY_ADDRESS FOLDER``. Prints a line for each part done.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import polars as pl

from heliostat.data.tables import Catalog
from heliostat.inference.batch import BatchModel, BatchReport, predict
from heliostat.registry import signing
from heliostat.registry.package import ModelInput
from heliostat.telemetry import Progress
from heliostat.testing.packages import write_package

NUM_ROWS = 60_000
ROWS_PER_PART = 2_000


def prepare(folder: Path) -> None:
    """Write a signed model and a table of three files with missing and unknown values."""
    inputs = [ModelInput(name=f"n{number}", kind="numeric") for number in range(3)]
    inputs.append(ModelInput(name="color", kind="categorical", vocabulary=("red", "blue")))
    write_package(
        folder / "package", model="shapes", inputs=inputs, bias=-0.5, keys_dir=folder / "keys"
    )
    rng = np.random.default_rng(7)
    frame = pl.DataFrame(
        {
            "id": np.arange(NUM_ROWS),
            **{f"n{number}": rng.normal(size=NUM_ROWS) for number in range(3)},
            "color": rng.choice(["red", "blue", "green"], NUM_ROWS),
        }
    ).with_columns(n1=pl.when(pl.col("id") % 7 == 0).then(None).otherwise("n1"))
    catalog = Catalog(folder / "tables")
    third = NUM_ROWS // 3
    for number in range(3):
        part = frame.slice(number * third, third)
        catalog.write("rows", part, run_id=f"made-{number}", mode="append")


def run(folder: Path, progress: Progress | None = None) -> BatchReport:
    """Score it."""
    model = BatchModel(
        name="shapes",
        version="1",
        package=folder / "package",
        keys=folder / "keys",
        digest=signing.verify(folder / "package", folder / "keys"),
    )
    return predict(
        model, Catalog(folder / "tables"), "rows", "scored",
        keep=("id",), num_workers=1, rows_per_part=ROWS_PER_PART, progress=progress,
    )  # fmt: skip


def main() -> None:
    """Connect and score."""
    import ray

    address, folder = sys.argv[1], Path(sys.argv[2])
    ray.init(
        address=address,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": os.environ["PYTHONPATH"]}},
    )
    run(folder, lambda done, _, text: print(done, text, flush=True))


if __name__ == "__main__":
    main()
