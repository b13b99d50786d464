"""Tables, features and the one recipe of the image example."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import polars as pl

from heliostat.data.contract import Column, Contract
from heliostat.data.sources import CsvFiles
from heliostat.data.tree_source import FileTree
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
from jobs.digits import images

IMAGES = Contract(
    table="raw/images",
    keys=("image",),
    columns=(
        Column(name="image", dtype="int64", minimum=0),
        Column(name="at", dtype="timestamp", not_in_future=True),
        Column(name="folder", dtype="string"),
        Column(name="path", dtype="string", pattern=r".*\.pgm"),
        Column(name="size_bytes", dtype="int64", minimum=1),
        Column(name="sha256", dtype="string", pattern="[0-9a-f]{64}"),
        *(Column(name=name, dtype="float64", minimum=0, maximum=1) for name in images.PIXELS),
    ),
)
LABELS = Contract(
    table="raw/labels",
    keys=("image",),
    columns=(
        Column(name="image", dtype="int64", minimum=0),
        Column(name="at", dtype="timestamp", not_in_future=True),
        Column(name="above_four", dtype="int64", minimum=0, maximum=1),
    ),
)


def asked(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """Each picture is asked about when it is taken."""
    return tables["raw/images"].select("image", "at", picture="image")


def seen(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """A person has looked at it an hour later."""
    return tables["raw/labels"].select(
        "image", "at", "above_four", known_at=pl.col("at") + timedelta(hours=1)
    )


def pixels(tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """What the picture shows."""
    return tables["raw/images"].select(*images.PIXELS, picture="image", event_timestamp="at")


SERVICE = FeatureService(
    project="digits",
    name="picture",
    views=(
        FeatureView(
            name="pixels",
            keys=("picture",),
            integer_keys=("picture",),
            inputs=("raw/images",),
            compute=pixels,
            features=tuple(Feature(name=name, dtype="float64") for name in images.PIXELS),
            ttl_s=None,
        ),
    ),
)


def small() -> PipelineRecipe:
    """Write the files if they are not there, and describe a run over them."""
    # The client and the job must name the same folder.
    folder = Path(os.environ.get("HELIOSTAT_HOME", tempfile.gettempdir())) / "digits"
    if not (folder / "labels.csv").exists():
        images.write(folder)
    return PipelineRecipe(
        model="digit-above-four",
        sources=(
            SourceTable(
                source=FileTree(
                    folder=str(folder / "images"), pattern="*.pgm", decode=images.decode
                ),
                contract=IMAGES,
            ),
            SourceTable(source=CsvFiles(paths=(str(folder / "labels.csv"),)), contract=LABELS),
        ),
        derived=(
            DerivedTable(name="asked", inputs=("raw/images",), compute=asked),
            DerivedTable(name="seen", inputs=("raw/labels",), compute=seen, replayed_by="at"),
        ),
        service=SERVICE,
        examples=Examples(
            table="asked", id="image", time="at", labels="seen", label="above_four",
            known_at="known_at",
        ),
        stable=_version(14),
        candidate=_version(18),
        canary=RolloutPlan(
            model="digit-above-four",
            candidate="2",
            steps_percent=(30.0, 100.0),
            min_requests_per_step=50,
            errors=ErrorsGate(margin_ratio=0.1, alpha=0.05),
            latency=LatencyGate(quantile=0.5, margin_ms=100.0, margin_ratio=3.0, alpha=0.05),
            loss=LossGate(margin=0.2, alpha=0.05),
        ),
        replay=ReplayRecipe(
            # 765 pictures: the loss gate wants 500 labelled pairs before it says anything.
            period=Period(start=_day(21), end=_day(38)), requests_per_s=25.0,
            # A picture is asked about when it is taken, so its window must be its own.
            publish_every_s=1800.0,
        ),
    )  # fmt: skip


def _version(num_days: int) -> VersionRecipe:
    return VersionRecipe(
        train=Period(start=_day(0), end=_day(num_days)),
        evaluate=Period(start=_day(num_days), end=_day(num_days + 3)),
        training=TrainRecipe(
            label="above_four",
            numeric=images.PIXELS,
            epochs=20,
            batch_size=64,
            num_workers=1,
            validation=Validation(share=0.0),
        ),
        gates=(
            Gate(
                name="sees", metric="auc", threshold=0.9, direction="at_least",
                why="a plain network tells most digits of this size apart",
            ),
        ),
    )  # fmt: skip


def _day(number: int) -> str:
    return (images.START + timedelta(days=number)).isoformat()
