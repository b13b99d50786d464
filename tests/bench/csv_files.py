"""Three data sets of other kinds than the reference workload, written out as CSV files."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One file and what `heliostat new` is told about it."""

    name: str
    options: tuple[str, ...]
    task: str


TUMOURS = Example(name="tumours", options=("--label", "target"), task="binary")
"""569 rows of 30 numbers (scikit-learn's breast cancer), no time and no entity."""

PROGRESSION = Example(name="progression", options=("--label", "target"), task="regression")
"""442 rows of 10 numbers (scikit-learn's diabetes), a number to predict."""

SUBSCRIPTIONS = Example(
    name="subscriptions",
    options=("--label", "Cancelled", "--time", "Asked On", "--entity", "Customer No"),
    task="binary",
)
"""Generated: text categories, dates written in two ways, missing values, a label in words."""

ALL = (TUMOURS, PROGRESSION, SUBSCRIPTIONS)


def write(example: Example, folder: Path) -> Path:
    """Write an example's file; the same bytes each time."""
    path = folder / f"{example.name}.csv"
    if example is SUBSCRIPTIONS:
        subscriptions(path, num_rows=6_000)
        return path
    from sklearn import datasets

    loaded = (
        datasets.load_breast_cancer(as_frame=True)
        if example is TUMOURS
        else datasets.load_diabetes(as_frame=True)
    )
    # The first rows of one file are sorted by nothing, but not by chance either.
    pl.from_pandas(loaded.frame).sample(fraction=1.0, shuffle=True, seed=3).write_csv(path)
    return path


def subscriptions(path: Path, *, num_rows: int) -> None:
    """Write customers asked about over a year, with one column that is known only afterwards."""
    rng = np.random.default_rng(21)
    num_customers = num_rows // 12
    customer = rng.integers(1, num_customers + 1, num_rows)
    minute = np.sort(rng.choice(365 * 24 * 60, num_rows, replace=False))
    plan = rng.choice(
        ["basic", "plus", "family", "business"], num_customers + 1, p=[0.5, 0.3, 0.15, 0.05]
    )
    region = rng.choice(["north", "south", "east", "west", ""], num_customers + 1)
    joined = rng.integers(0, 1_500, num_customers + 1)
    calls = rng.poisson(1.2, num_rows)
    used = np.round(rng.gamma(2.0, 20.0, num_rows), 1)
    odds = (
        -1.2
        + 0.8 * calls
        - 0.03 * used
        + 0.9 * (plan[customer] == "basic")
        - 0.0008 * joined[customer]
    )
    cancelled = rng.random(num_rows) < 1 / (1 + np.exp(-odds))
    start = datetime(2023, 1, 1)
    began = [date(2022, 12, 31) - timedelta(days=int(joined[who])) for who in customer]
    pl.DataFrame(
        {
            "Customer No": [f"C{who:05d}" for who in customer],
            "Asked On": [(start + timedelta(minutes=int(at))).strftime("%Y-%m-%d %H:%M:%S") for at in minute],
            "Plan": plan[customer],
            "Region": region[customer],
            "Member Since": [day.strftime("%d.%m.%Y") for day in began],
            "Calls": [None if rng.random() < 0.1 else int(value) for value in calls],
            "Hours Used": [None if rng.random() < 0.05 else float(value) for value in used],
            "Source": ["export"] * num_rows,
            "Refund": [round(float(rng.gamma(2, 10)), 2) if gone else None for gone in cancelled],
            "Cancelled": np.where(cancelled, "Yes", "No"),
        }
    ).write_csv(path)  # fmt: skip
