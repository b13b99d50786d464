"""The stages that touch live traffic: fill the online store, deploy, and run the canary."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from heliostat.data.tables import Catalog
from heliostat.errors import HeliostatError
from heliostat.features import offline, stores
from heliostat.features.definitions import EVENT_TIMESTAMP, FeatureService
from heliostat.features.intervals import Interval
from heliostat.features.materialize import MaterializeReport, Timeline, materialize
from heliostat.inference import columns
from heliostat.inference.predictor import Predictor
from heliostat.monitoring import exposures
from heliostat.pipeline import canary, examples, feature_gate, parity, world
from heliostat.pipeline.canary import CanaryOutcome
from heliostat.pipeline.connection import Connection
from heliostat.pipeline.progress import Reporter
from heliostat.pipeline.recipe import PipelineRecipe
from heliostat.pipeline.replay import Example
from heliostat.pipeline.versions import Registered

if TYPE_CHECKING:
    import polars as pl

REPLAY = "replay"
"""Folder of the views' tables with the sealed rows, below the model's own tables."""

EXPOSURES_LIMIT_S = 15.0
"""Longest wait until the gateways have written the last exposures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Replayed:
    """Everything that a canary on replayed traffic showed."""

    outcome: CanaryOutcome
    features: parity.ParityReport
    """Features that gateways logged against those computed offline."""

    scores: parity.ParityReport
    """Scores that were answered against those of the answering version, computed offline."""

    num_exposures: int
    rows: pl.DataFrame
    """One row per request: id, label (null if none), the answer, and both versions' scores."""

    sample: Example
    """The last example, for people who want to ask by hand."""


def fill_online(
    service: FeatureService,
    connection: Connection,
    catalog: Catalog,
    reporter: Reporter,
    *,
    end: datetime,
) -> MaterializeReport:
    """Bring the online store to a moment, that at which the replay starts, and not beyond."""
    reporter.line("materialize", "started")
    writer = stores.open_writer(connection.online_store, connection.home.online_db, service.project)
    writer.clear(service.views)
    report = materialize(service, catalog, writer, start=None, end=end, now=datetime.now(UTC))
    reporter.line(
        "materialize",
        f"{sum(report.rows.values()):,} entities online, as known at {end.isoformat()}",
    )
    feature_gate.require_parity(
        feature_gate.of_service(service), catalog, connection, project=service.project,
        versions=report.versions, at=end, stage="materialize", reporter=reporter,
    )  # fmt: skip
    return report


def deploy(
    recipe: PipelineRecipe, connection: Connection, version: str, reporter: Reporter
) -> None:
    """Make a version stable, and wait until the gateways answer with it."""
    control = connection.control()
    reporter.line("deploy", "started")
    began = time.monotonic()
    control.deploy(recipe.model, version)
    reporter.line(
        "deploy",
        f"{recipe.model} version {version} answers, after {time.monotonic() - began:.1f} s",
    )


def run_canary(
    recipe: PipelineRecipe,
    connection: Connection,
    catalog: Catalog,
    *,
    stable: Registered,
    candidate: Registered,
    run_id: str,
    reporter: Reporter,
) -> Replayed:
    """Replay the sealed period as live traffic while the candidate earns it, then check all.

    Args:
        recipe: Whose replay and canary are run.
        connection: The platform.
        catalog: Unsealed: the replay may open what it reveals.
        stable: The version that answers now.
        candidate: The version on trial.
        run_id: Unique to this run; part of every request id.
        reporter: Told progress and events.
    """
    reporter.line("canary", "preparing the replay")
    period = recipe.replay.period
    given_rows = examples.entities(recipe, catalog.read(recipe.examples.table), period)
    publish, expected = _prepared(recipe, connection, catalog, given_rows, run_id)
    labels = _sealed_labels(recipe, catalog)
    prefix = f"{run_id}."
    given = canary.examples(recipe, given_rows.rename({EVENT_TIMESTAMP: recipe.examples.time}))
    reporter.line("canary", f"{len(given):,} requests from {period.start} on, in order of time")
    plan = replace(recipe.canary, model=recipe.model, candidate=candidate.version)
    outcome = canary.run(
        recipe,
        plan=plan,
        given=given,
        publish=publish,
        labels=_late_labels(recipe, given_rows, labels, prefix),
        request_prefix=prefix,
        control=connection.control(),
        endpoint=connection.endpoint,
        reporter=reporter,
    )
    reporter.line("canary", "comparing online with offline")
    return _checked(
        recipe, connection, outcome, expected(), labels, (stable, candidate), prefix, given
    )


def _prepared(
    recipe: PipelineRecipe,
    connection: Connection,
    catalog: Catalog,
    given: pl.DataFrame,
    run_id: str,
) -> tuple[Callable[[datetime], int], Callable[[], pl.DataFrame]]:
    """Return what publishes the features of a moment, and what tells the inputs of every request.

    Without a service, requests carry their inputs and there is nothing to publish.
    """
    service = recipe.service
    if service is None:
        return lambda _: 0, lambda: given
    replayed = catalog.below(REPLAY)
    versions = _reveal(recipe, service, catalog, replayed, run_id)
    period = recipe.replay.period
    timeline = Timeline(
        service, replayed, start=period.start_at, end=period.end_at, versions=versions
    )
    writer = stores.open_writer(connection.online_store, connection.home.online_db, service.project)
    reached = period.start_at

    def publish(moment: datetime) -> int:
        nonlocal reached
        reached = moment
        return sum(timeline.advance(writer, moment).values())

    def expected() -> pl.DataFrame:
        # The store has gone on: whoever compares it later must know up to when, and with what.
        interval = Interval(
            service=service.name, digest=service.digest(), start=period.start_at, end=reached,
            at=datetime.now(UTC), rows={}, versions=versions, below=REPLAY,
        )  # fmt: skip
        writer.record(interval.to_line())
        return offline.training_set(service, given, replayed, versions=versions)

    return publish, expected


def _sealed_labels(recipe: PipelineRecipe, catalog: Catalog) -> pl.DataFrame:
    table = next(item for item in recipe.derived if item.name == recipe.examples.labels)
    name = table.replay_name if table.replayed_by is not None else table.name
    return catalog.read(name)


def _late_labels(
    recipe: PipelineRecipe, given: pl.DataFrame, labels: pl.DataFrame, prefix: str
) -> list[world.LateLabel]:
    spec = recipe.examples
    rows = given.select(spec.id).join(labels, on=spec.id).select(spec.id, spec.known_at, spec.label)
    return [
        world.LateLabel(known_at=known_at, request_id=f"{prefix}{row_id}", label=float(label))
        for row_id, known_at, label in rows.iter_rows()
    ]


def _reveal(
    recipe: PipelineRecipe,
    service: FeatureService,
    catalog: Catalog,
    replayed: Catalog,
    run_id: str,
) -> dict[str, int]:
    """Compute every view over all rows, the sealed ones included, into tables of their own."""
    tables = examples.revealed(recipe, service, catalog)
    return {
        view.name: replayed.write(
            view.table, view.compute(tables).select(view.columns), run_id=run_id
        )
        for view in service.views
    }


def _checked(
    recipe: PipelineRecipe,
    connection: Connection,
    outcome: CanaryOutcome,
    expected: pl.DataFrame,
    labels: pl.DataFrame,
    versions: tuple[Registered, Registered],
    prefix: str,
    given: Sequence[Example],
) -> Replayed:
    import polars as pl

    spec = recipe.examples
    # What a request carried itself is not logged as a feature.
    names = [item.name for item in recipe.service.features] if recipe.service else []
    row_of = {f"{prefix}{example.id}": example.row for example in given}
    ids = expected[spec.id].cast(pl.String).to_list()
    values = expected.select(names).iter_rows(named=True) if names else ({} for _ in ids)
    offline_rows: dict[str, Mapping[str, Any]] = dict(zip(ids, values, strict=True))
    offline_scores = {
        trained.version: dict(zip(ids, _scores(trained, connection, expected), strict=True))
        for trained in versions
    }
    answered = [answer for answer in outcome.answers if answer.status == 200]
    logged = _exposures(connection, recipe.model, prefix, len(answered))
    features = parity.compare(
        ((row_of[record.request_id], record.features) for record in logged),
        offline_rows,
    )
    scores = parity.compare(
        ((answer.request_id, {"score": answer.scores[0]}) for answer in answered),
        {
            answer.request_id: {
                "score": offline_scores[str(answer.version)][row_of[answer.request_id]]
            }
            for answer in answered
        },
    )
    return Replayed(
        outcome=outcome,
        features=features,
        scores=scores,
        num_exposures=len(logged),
        rows=_rows(recipe, outcome, ids, offline_scores, labels, row_of),
        sample=given[-1],
    )


def _scores(trained: Registered, connection: Connection, rows: pl.DataFrame) -> list[float]:
    predictor = Predictor.load(trained.path, connection.home.keys, device="cpu")
    return [float(score) for score in columns.score(predictor, rows)]


def _exposures(
    connection: Connection, model: str, prefix: str, wanted: int
) -> Sequence[exposures.Exposure]:
    ends = time.monotonic() + EXPOSURES_LIMIT_S
    while True:
        found = list(exposures.read(connection.home.spool, model=model, request_prefix=prefix))
        if len(found) >= wanted or time.monotonic() > ends:
            break
        time.sleep(0.5)
    # One more is a request that its client gave up, and the gateway answered all the same.
    if len(found) < wanted:
        raise HeliostatError(
            f"exposures = {len(found)}: must be at least as many as the {wanted} answered requests"
        )
    return found


def _rows(
    recipe: PipelineRecipe,
    outcome: CanaryOutcome,
    ids: list[str],
    scores: dict[str, dict[str, float]],
    labels: pl.DataFrame,
    row_of: Mapping[str, str],
) -> pl.DataFrame:
    import polars as pl

    spec = recipe.examples
    (stable, candidate) = scores
    answers = pl.DataFrame(
        [
            {
                spec.id: row_of[answer.request_id],
                "request_id": answer.request_id,
                "status": answer.status,
                "version": answer.version,
                "variant": answer.variant,
                "fallback": answer.fallback,
                "score": answer.scores[0] if answer.scores else None,
                "latency_ms": answer.latency_s * 1000,
            }
            for answer in outcome.answers
        ],
        infer_schema_length=None,
    )
    both = pl.DataFrame(
        {
            spec.id: ids,
            "stable_score": [scores[stable][row_id] for row_id in ids],
            "candidate_score": [scores[candidate][row_id] for row_id in ids],
        }
    )
    known = labels.select(pl.col(spec.id).cast(pl.String), label=spec.label)
    return answers.join(both, on=spec.id, how="left").join(known, on=spec.id, how="left")
