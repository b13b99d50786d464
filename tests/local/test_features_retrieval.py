"""Joins by Ray tasks give what one join in this process gives, however rows are cut."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from heliostat.features.retrieval import Retrieval
from heliostat.features.sources import Lookup

T0 = datetime(2026, 1, 1, tzinfo=UTC)
ROWS = 3_000


def _rows(source: np.random.Generator, **columns: Any) -> pl.DataFrame:
    """Keys of which some are null, and moments within an hour."""
    moments = pl.Series(source.integers(0, 3_600 * 10**6, ROWS)).cast(pl.Duration("us")) + T0
    return pl.DataFrame(
        {
            "user": source.integers(0, 200, ROWS),
            "shop": source.choice(["a", "b", "c"], ROWS),
            "event_timestamp": moments,
            **columns,
        }
    ).with_columns(pl.when(pl.col("user") > 2).then(pl.col("user")).alias("user"))


def _lookup(folder: Path, view: str, keys: Mapping[str, str], source: Any) -> Lookup:
    frame = _rows(source, **{f"{view}_{n}": source.random(ROWS) for n in range(2)})
    (folder / view).mkdir()
    for number, part in enumerate(frame.iter_slices(1_000)):
        part.write_parquet(folder / view / f"{number}.parquet", row_group_size=400)
    return Lookup(
        view=view, dataset=ds.dataset(folder / view), keys=keys, event="event_timestamp",
        features={f"{view}_{n}": f"{view}_{n}" for n in range(2)}, created=None,
        ttl_us=600 * 10**6,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rows_per_part", "rows_per_share"),
    [(10_000, 10_000), (10_000, 700), (800, 800), (800, 150)],
    ids=["one part", "shares", "parts", "parts of shares"],
)
@pytest.mark.usefixtures("ray_session")
def test_parts_and_shares_change_no_value(
    tmp_path: Path, rows_per_part: int, rows_per_share: int
) -> None:
    """Two views with a key, one with two, one with none; by either way to take the answer."""
    import ray

    source = np.random.default_rng(5)
    user = {"user": "user"}
    retrieval = Retrieval(
        lookups=(
            _lookup(tmp_path, "one", user, source),
            _lookup(tmp_path, "other", user, source),
            _lookup(tmp_path, "both", {**user, "shop": "shop"}, source),
            _lookup(tmp_path, "all", {}, source),
        ),
        event="event_timestamp",
        rows_per_part=rows_per_part,
        rows_per_share=rows_per_share,
    )
    entities = _rows(source).to_arrow()
    wanted = retrieval.in_process(entities)

    assert 0 < wanted["one_0"].null_count < ROWS
    assert 0 < wanted["both_0"].null_count < ROWS
    assert retrieval.gathered(entities).equals(wanted)
    assert pa.concat_tables(ray.get(retrieval.on_ray(entities))).equals(wanted)
    nobody = entities.slice(0, 0)
    assert retrieval.gathered(nobody).equals(retrieval.in_process(nobody))
