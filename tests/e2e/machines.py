"""A second workload, generated: will a machine fail in the next hours?

Another shape than the reference workload: integer keys, few and small tables, hourly readings,
labels known after a fixed time. Nothing of the platform knows about it.
"""

from __future__ import annotations

import csv
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from heliostat.data.contract import Column, Contract
from heliostat.data.sources import CsvFiles
from heliostat.features.definitions import Feature, FeatureService, FeatureView
from heliostat.pipeline.recipe import (
    DerivedTable,
    Examples,
    Period,
    PipelineRecipe,
    ReplayRecipe,
    SourceTable,
    VersionRecipe,
)
from heliostat.rollout.allowed import ErrorsGate, LatencyGate, LossGate
from heliostat.rollout.plan import RolloutPlan
from heliostat.training.gates import Gate
from heliostat.training.recipe import TrainRecipe, Validation

START = datetime(2024, 1, 1, tzinfo=UTC)
NUM_DAYS = 60
NUM_MACHINES = 60
KINDS = ("press", "lathe", "mill")
LABEL_AFTER = timedelta(hours=8)

READINGS = Contract(
    table="raw/readings",
    keys=("machine", "at"),
    columns=(
        Column(name="machine", dtype="int64", minimum=1),
        Column(name="at", dtype="timestamp", not_in_future=True),
        Column(name="temperature", dtype="float64", minimum=-50, maximum=400),
        Column(name="vibration", dtype="float64", nullable=True, minimum=0),
    ),
)
MACHINES = Contract(
    table="raw/machines",
    keys=("machine",),
    columns=(
        Column(name="machine", dtype="int64", minimum=1),
        Column(name="kind", dtype="string", values=KINDS),
    ),
)
CHECKS = Contract(
    table="raw/checks",
    keys=("check",),
    columns=(
        Column(name="check", dtype="int64", minimum=1),
        Column(name="machine", dtype="int64", minimum=1),
        Column(name="at", dtype="timestamp", not_in_future=True),
        Column(name="failed", dtype="int64", minimum=0, maximum=1),
    ),
)

READINGS_HEADER = ("machine", "at", "temperature", "vibration")
BAD_READINGS = (
    (1, "2024-01-05T00:00:00+00:00", "60.00"),
    (1, "2024-01-05T00:30:00+00:00", "hot", "0.5"),
    (1, "2999-01-01T00:00:00+00:00", "60.00", "0.5"),
    (1, START.isoformat(), "60.00", "0.5"),
)
"""A row of too few fields, a wrong type, a time to come, and keys that are there already."""


def generate(folder: Path) -> None:
    """Write the three source files; the same ones each time."""
    rng = np.random.default_rng(11)
    folder.mkdir(parents=True, exist_ok=True)
    kinds = rng.integers(0, 3, NUM_MACHINES)
    _write(
        folder / "machines.csv",
        ("machine", "kind"),
        ((machine + 1, KINDS[kinds[machine]]) for machine in range(NUM_MACHINES)),
    )
    hours = NUM_DAYS * 24
    wear = np.cumsum(rng.normal(0, 0.25, (NUM_MACHINES, hours)), axis=1)
    wear -= np.minimum.accumulate(wear, axis=1)
    temperature = 60 + 6 * wear + rng.normal(0, 3, wear.shape)
    vibration = np.abs(0.5 + 0.3 * wear + rng.normal(0, 0.15, wear.shape))
    missing = rng.random(wear.shape) < 0.05
    readings, checks = [], []
    for hour in range(hours):
        at = START + timedelta(hours=hour)
        for machine in range(NUM_MACHINES):
            shaken = "" if missing[machine, hour] else f"{vibration[machine, hour]:.4f}"
            heat = f"{temperature[machine, hour]:.2f}"
            readings.append((machine + 1, at.isoformat(), heat, shaken))
            if hour % 6 == 5:
                odds = -2.5 + 0.9 * wear[machine, hour] + 0.8 * (kinds[machine] == 0)
                failed = int(rng.random() < 1 / (1 + np.exp(-odds)))
                when = at + timedelta(minutes=20)
                checks.append((len(checks) + 1, machine + 1, when.isoformat(), failed))
    _write(folder / "readings.csv", READINGS_HEADER, [*readings, *BAD_READINGS])
    _write(folder / "checks.csv", ("check", "machine", "at", "failed"), checks)


def _write(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    scratch = path.with_suffix(".part")
    with scratch.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    scratch.replace(path)


def checks(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Which machine is asked about, and when."""
    return tables["raw/checks"].select("check", "machine", "at")


def outcomes(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Whether it failed, known hours later."""
    return tables["raw/checks"].select("check", "at", "failed", known_at=pl.col("at") + LABEL_AFTER)


def latest_reading(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The newest reading of each machine."""
    return tables["raw/readings"].select(
        "machine", "temperature", "vibration", event_timestamp="at"
    )


def make(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """What kind of machine it is."""
    return tables["raw/machines"].select("machine", "kind", event_timestamp=pl.lit(START))


SERVICE = FeatureService(
    project="machines",
    name="failure",
    views=(
        FeatureView(
            name="latest_reading",
            keys=("machine",),
            integer_keys=("machine",),
            inputs=("raw/readings",),
            compute=latest_reading,
            features=(
                Feature(name="temperature", dtype="float64"),
                Feature(name="vibration", dtype="float64"),
            ),
            ttl_s=6 * 3600.0,
        ),
        FeatureView(
            name="make",
            keys=("machine",),
            integer_keys=("machine",),
            inputs=("raw/machines",),
            compute=make,
            features=(Feature(name="kind", dtype="string"),),
            ttl_s=None,
        ),
    ),
)


def _day(number: int) -> str:
    return (START + timedelta(days=number)).isoformat()


def without_column() -> PipelineRecipe:
    """The same, but the file of readings lacks a column."""
    whole = recipe()
    path = Path(whole.sources[0].source.paths[0])
    short = path.with_name("readings-short.csv")
    _write(short, READINGS_HEADER[:3], [(1, START.isoformat(), "60.00")])
    readings = replace(whole.sources[0], source=CsvFiles(paths=(str(short),), missing=("",)))
    return replace(whole, sources=(readings, *whole.sources[1:]))


def recipe() -> PipelineRecipe:
    """Generate the files if they are not there, and describe a run over them."""
    # The client and the job must name the same folder.
    folder = Path(os.environ.get("HELIOSTAT_HOME", tempfile.gettempdir())) / "machines"
    if not (folder / "checks.csv").exists():
        generate(folder)

    def source(name: str) -> CsvFiles:
        return CsvFiles(paths=(str(folder / name),), missing=("",))

    def version(days: int) -> VersionRecipe:
        return VersionRecipe(
            train=Period(start=_day(0), end=_day(days)),
            evaluate=Period(start=_day(days), end=_day(days + 6)),
            training=TrainRecipe(
                label="failed",
                numeric=("temperature", "vibration"),
                categorical=("kind",),
                epochs=4,
                batch_size=256,
                num_workers=1,
                validation=Validation(share=0.0),
            ),
            gates=(
                Gate(
                    name="ranks", metric="auc", threshold=0.7, direction="at_least",
                    why="the readings carry the wear",
                ),
            ),
        )  # fmt: skip

    return PipelineRecipe(
        model="machine-failure",
        sources=(
            SourceTable(source=source("readings.csv"), contract=READINGS),
            SourceTable(source=source("machines.csv"), contract=MACHINES),
            SourceTable(source=source("checks.csv"), contract=CHECKS),
        ),
        derived=(
            DerivedTable(name="checks", inputs=("raw/checks",), compute=checks),
            DerivedTable(
                name="outcomes", inputs=("raw/checks",), compute=outcomes, replayed_by="at"
            ),
        ),
        service=SERVICE,
        examples=Examples(
            table="checks", id="check", time="at",
            labels="outcomes", label="failed", known_at="known_at",
        ),
        stable=version(30),
        candidate=version(44),
        canary=RolloutPlan(
            model="machine-failure",
            candidate="2",
            steps_percent=(20.0, 100.0),
            min_requests_per_step=100,
            errors=ErrorsGate(margin_ratio=0.05, alpha=0.05),
            latency=LatencyGate(quantile=0.5, margin_ms=100.0, margin_ratio=3.0, alpha=0.05),
            loss=LossGate(margin=0.05, alpha=0.05),
        ),
        replay=ReplayRecipe(
            period=Period(start=_day(50), end=_day(60)), requests_per_s=250.0,
            publish_every_s=3600.0,
        ),
    )  # fmt: skip
