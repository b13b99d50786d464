"""Complete configs of the workload's runs; the only place with its numbers."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from heliostat.pipeline.recipe import (
    DerivedTable,
    Examples,
    Period,
    PipelineRecipe,
    ReplayRecipe,
    SourceTable,
    VersionRecipe,
)
from heliostat.pipeline.tune import TuneRecipe
from heliostat.rollout.allowed import ErrorsGate, LatencyGate, LossGate
from heliostat.rollout.plan import RolloutPlan
from heliostat.training import estimators
from heliostat.training.gates import Gate
from heliostat.training.recipe import TrainRecipe, Validation
from heliostat.training.search import Choice, Range, SearchRecipe
from jobs.flights import tables
from jobs.flights.features import SERVICE

MODEL = "flight-delay"

# Midnight in New York, in UTC: 05:00 in winter and 04:00 in summer.
NEW_YEAR = "2013-01-01T05:00:00+00:00"
MAY = "2013-05-01T04:00:00+00:00"
JULY = "2013-07-01T04:00:00+00:00"
AUGUST = "2013-08-01T04:00:00+00:00"
NOVEMBER = "2013-11-01T04:00:00+00:00"
DECEMBER = "2013-12-01T05:00:00+00:00"
DECEMBER_4 = "2013-12-04T05:00:00+00:00"
NEXT_YEAR = "2014-01-01T05:00:00+00:00"

TEXT_FEATURES = ("carrier_code", "origin_code", "dest_code", "day_of_week")

TRAINING = TrainRecipe(
    label="late",
    numeric=tuple(item.name for item in SERVICE.features if item.name not in TEXT_FEATURES),
    categorical=TEXT_FEATURES,
    epochs=5,
    batch_size=2048,
    learning_rate=2e-3,
    params={"hidden": 64, "blocks": 1, "dropout": 0.2},
    validation=Validation(share=0.05),
)

TREES = replace(
    TRAINING,
    learner="estimator",
    model=estimators.boosted_trees,
    params={"rounds": 150, "learning_rate": 0.08, "leaves": 31, "leaf_min_rows": 200},
    num_workers=1,
)

GATES = (
    Gate(
        name="ranks-well", metric="auc", threshold=0.70, direction="at_least",
        why="gradient boosting with one history feature reaches 0.703 on December",
    ),
    Gate(
        name="beats-the-base-rate", metric="log_loss_ratio", threshold=0.97, direction="at_most",
        why="a model must say more than the share of late flights does",
    ),
    Gate(
        name="no-leak", metric="leak_alone", threshold=0.9, direction="at_most",
        why="no single fact known at departure tells that much; one that does was known later",
    ),
    Gate(
        name="answers-without-inputs", metric="missing_all_finite", threshold=1.0,
        direction="at_least", why="features go missing when a source is late",
    ),
)  # fmt: skip

NOT_WORSE = Gate(
    name="not-worse-than-production", metric="production_rise_low", threshold=0.01,
    direction="at_most",
    why="refused when it is surely worse, on the same rows, by more than the live gate allows",
)  # fmt: skip


def shuffled_labels(rows: pl.DataFrame) -> pl.DataFrame:
    """Give each training row the label of another: what a broken label join does."""
    return rows.with_columns(pl.col("late").shuffle(seed=1))


def demo() -> PipelineRecipe:
    """The whole year: two versions, and December as live traffic."""
    return PipelineRecipe(
        model=MODEL,
        sources=(
            SourceTable(source=tables.source("flights.csv.zip"), contract=tables.FLIGHTS),
            SourceTable(source=tables.source("weather.csv"), contract=tables.WEATHER),
            SourceTable(source=tables.source("planes.csv"), contract=tables.PLANES),
            SourceTable(source=tables.source("airports.csv"), contract=tables.AIRPORTS),
        ),
        derived=(
            DerivedTable(
                name="schedule", inputs=("raw/flights", "raw/airports"), compute=tables.schedule
            ),
            DerivedTable(
                name="movements", inputs=("raw/flights", "raw/airports"), compute=tables.movements,
                replayed_by="scheduled_at",
            ),
            DerivedTable(
                name="labels", inputs=("raw/flights", "raw/airports"), compute=tables.labels,
                replayed_by="scheduled_at",
            ),
        ),
        service=SERVICE,
        examples=Examples(
            table="schedule", id="flight_key", time="scheduled_at",
            labels="labels", label="late", known_at="known_at",
        ),
        stable=VersionRecipe(
            train=Period(start=NEW_YEAR, end=JULY),
            evaluate=Period(start=JULY, end=AUGUST),
            training=TRAINING,
            gates=GATES,
        ),
        candidate=VersionRecipe(
            train=Period(start=NEW_YEAR, end=NOVEMBER),
            evaluate=Period(start=NOVEMBER, end=DECEMBER),
            training=TRAINING,
            gates=(*GATES, NOT_WORSE),
        ),
        canary=RolloutPlan(
            model=MODEL,
            candidate="2",
            steps_percent=(5.0, 25.0, 50.0, 100.0),
            min_requests_per_step=300,
            errors=ErrorsGate(margin_ratio=0.02),
            latency=LatencyGate(quantile=0.9, margin_ms=50.0, margin_ratio=2.0),
            loss=LossGate(margin=0.01),
        ),
        replay=ReplayRecipe(period=Period(start=DECEMBER, end=NEXT_YEAR)),
    )  # fmt: skip


def trees() -> PipelineRecipe:
    """`demo` with gradient boosting as version 2: another kind of model has to earn the traffic."""
    return _with_trees(demo())


def search() -> TuneRecipe:
    """Eight trials for the candidate's training; the best is trained and registered."""
    return TuneRecipe(
        pipeline=demo(),
        search=SearchRecipe(
            space={
                "learning_rate": Range(low=5e-4, high=1e-2, scale="log"),
                "params.hidden": Choice(options=(32, 64, 128)),
                "params.dropout": Range(low=0.0, high=0.4),
            },
            num_trials=8,
            searcher="optuna",
            scheduler="asha",
        ),
    )


def demo_bad() -> PipelineRecipe:
    """Version 2 learns from shuffled labels: the offline gate must refuse it (exit code 3)."""
    return _with_bad_candidate(demo())


def demo_bad_waived() -> PipelineRecipe:
    """The same, with the offline gates waived: live evidence must roll it back (exit code 3)."""
    return _with_waived_gates(demo_bad())


def small() -> PipelineRecipe:
    """A few months of training and three days of traffic: the same way in less time."""
    full = demo()
    quick = replace(TRAINING, epochs=2, batch_size=1024, num_workers=1)
    return replace(
        full,
        stable=VersionRecipe(
            train=Period(start=MAY, end=JULY),
            evaluate=Period(start=JULY, end="2013-07-15T04:00:00+00:00"),
            training=quick,
            gates=GATES,
        ),
        candidate=VersionRecipe(
            train=Period(start=MAY, end="2013-11-16T05:00:00+00:00"),
            evaluate=Period(start="2013-11-16T05:00:00+00:00", end=DECEMBER),
            training=quick,
            gates=(*GATES, NOT_WORSE),
        ),
        canary=replace(
            full.canary,
            steps_percent=(10.0, 50.0, 100.0),
            min_requests_per_step=100,
            errors=ErrorsGate(margin_ratio=0.05, alpha=0.05),
            latency=LatencyGate(quantile=0.5, margin_ms=100.0, margin_ratio=3.0, alpha=0.05),
            loss=LossGate(margin=0.02, alpha=0.05),
        ),
        replay=ReplayRecipe(period=Period(start=DECEMBER, end=DECEMBER_4), requests_per_s=250.0),
    )


def small_trees() -> PipelineRecipe:
    """`trees` in less time."""
    return _with_trees(small())


def small_bad() -> PipelineRecipe:
    """`demo_bad` in less time."""
    return _with_bad_candidate(small())


def small_bad_waived() -> PipelineRecipe:
    """`demo_bad_waived` in less time."""
    return _with_waived_gates(small_bad())


def _with_trees(recipe: PipelineRecipe) -> PipelineRecipe:
    return replace(recipe, candidate=replace(recipe.candidate, training=TREES))


def _with_bad_candidate(recipe: PipelineRecipe) -> PipelineRecipe:
    return replace(recipe, candidate=replace(recipe.candidate, prepare=shuffled_labels))


def _with_waived_gates(recipe: PipelineRecipe) -> PipelineRecipe:
    waived = tuple(
        replace(gate, waived="to show that live evidence alone stops it")
        for gate in recipe.candidate.gates
    )
    return replace(recipe, candidate=replace(recipe.candidate, gates=waived))
