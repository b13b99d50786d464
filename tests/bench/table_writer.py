"""A writer to be killed: one merge, compaction or ingest of a known table, then the word `done`."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from heliostat.data.contract import Column, Contract
from heliostat.data.ingest import ingest
from heliostat.data.merge import merge
from heliostat.data.sources import CsvFiles
from heliostat.data.tables import Catalog
from heliostat.data.upkeep import optimize

NUM_FILES = 8
ROWS_PER_FILE = 4_000
TABLE = "t"


def base(catalog: Catalog) -> None:
    """Write the table that every operation starts from: ids 0 to 31,999, value 0."""
    for number in range(NUM_FILES):
        first = number * ROWS_PER_FILE
        ids = pl.int_range(first, first + ROWS_PER_FILE, eager=True).alias("id")
        catalog.write(
            TABLE, pl.DataFrame({"id": ids, "value": 0}), run_id=f"b{number}", mode="append"
        )


def source(folder: Path) -> CsvFiles:
    """Write the file of the ingest: the same ids with value 2, and one row that is broken."""
    path = folder / "rows.csv"
    if not path.exists():
        lines = "".join(f"{row},2\n" for row in range(NUM_FILES * ROWS_PER_FILE))
        path.write_text(f"id,value\n{lines}x,2\n")
    return CsvFiles(paths=(str(path),), chunk_bytes=20_000)


CONTRACT = Contract(
    table=TABLE,
    columns=(Column(name="id", dtype="int64"), Column(name="value", dtype="int64")),
    keys=("id",),
)


def run(operation: str, folder: Path, run_id: str) -> None:
    """Carry out one operation to its end."""
    catalog = Catalog(folder / "tables")
    if operation == "merge":
        ids = pl.int_range(0, NUM_FILES * ROWS_PER_FILE + 10, step=2, eager=True).alias("id")
        merge(catalog, TABLE, pl.DataFrame({"id": ids, "value": 1}), keys=["id"], run_id=run_id)
    elif operation == "optimize":
        optimize(catalog, TABLE, run_id=run_id)
    else:
        import ray

        ray.init(address=os.environ["RAY_TEST_ADDRESS"], log_to_driver=False)
        ingest(source(folder), CONTRACT, catalog, run_id=run_id, now=datetime.now(UTC))


if __name__ == "__main__":
    print("ready", flush=True)
    run(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
    print("done", flush=True)
