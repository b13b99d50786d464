"""The end of a run: what both versions showed offline and live, and why traffic moved."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from heliostat.errors import GateRefused
from heliostat.pipeline.canary import describe_event
from heliostat.pipeline.connection import Connection
from heliostat.pipeline.layout import table
from heliostat.pipeline.live import Replayed
from heliostat.pipeline.recipe import PipelineRecipe
from heliostat.pipeline.versions import Registered
from heliostat.serving.client import datatype
from heliostat.training import evaluate

if TYPE_CHECKING:
    import polars as pl


FIGURES = {"binary": ("auc", "log_loss"), "regression": ("mae", "mse")}
"""What quality is told by, for each task."""


def summary(
    replayed: Replayed, stable: Registered, candidate: Registered, task: str
) -> dict[str, Any]:
    """Everything the run showed, as plain JSON values."""
    outcome = replayed.outcome
    labelled = replayed.rows.filter(replayed.rows["label"].is_not_null())
    return {
        "task": task,
        "rollout": {
            "id": outcome.rollout.get("id"),
            "state": outcome.rollout["state"],
            "because": outcome.rollout.get("because"),
            "events": outcome.rollout.get("events", []),
        },
        "requests": len(outcome.answers),
        "failed": len(outcome.failed),
        "failures": [f"{item.request_id}: {item.problem}" for item in outcome.failed[:20]],
        "fallbacks": sum(answer.fallback for answer in outcome.answers),
        "exposures": replayed.num_exposures,
        "seconds": round(outcome.seconds, 1),
        "requests_per_s": round(len(outcome.answers) / outcome.seconds, 1),
        "features_online_vs_offline": _parity(replayed.features),
        "scores_online_vs_offline": _parity(replayed.scores),
        "latency_ms": _latency(replayed.rows),
        "versions": {
            name: {
                "version": trained.version,
                "offline": trained.metrics,
                "replay": _quality(labelled, f"{name}_score", task),
                "answered": outcome.requests_by_version.get(trained.version, 0),
                "answered_quality": _quality(
                    labelled.filter(labelled["version"] == trained.version), "score", task
                ),
            }
            for name, trained in (("stable", stable), ("candidate", candidate))
        },
    }


def _parity(report: Any) -> dict[str, Any]:
    return {
        "rows": report.rows,
        "values": report.values,
        "different": report.num_different,
        "examples": list(report.examples),
    }


def _latency(rows: pl.DataFrame) -> dict[str, float]:
    found = rows["latency_ms"]
    return {
        name: round(float(found.quantile(share) or 0.0), 2)
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))
    }


def _quality(rows: pl.DataFrame, score: str, task: str) -> dict[str, float | int | None]:
    labels, scores = rows["label"].to_numpy(), rows[score].to_numpy()
    found: tuple[float | None, ...] = (None, None)
    if task == "regression" and len(labels):
        gaps = scores - labels
        found = (float(abs(gaps).mean()), float((gaps**2).mean()))
    elif len(set(labels.tolist())) == 2:
        found = (
            evaluate.auc(labels, scores),
            float(evaluate.row_log_loss(labels, scores).mean()),
        )
    figures = {
        name: None if value is None else round(value, 4)
        for name, value in zip(FIGURES[task], found, strict=True)
    }
    return {"rows": len(labels), **figures}


def lines(
    found: Mapping[str, Any], stable: Registered, candidate: Registered, period: str
) -> list[str]:
    """Say the summary in a few lines and one short table."""
    rows = [
        [f"version {trained.version} ({role})", trained.evaluated_on, *_cells(found, role, trained)]
        for role, trained in (("stable", stable), ("candidate", candidate))
    ]
    first, second = ("AUC", "log loss") if found["task"] == "binary" else ("MAE", "MSE")
    header = [
        "", "offline on", first, second, f"{period}: {first}", second, "requests answered",
    ]  # fmt: skip
    latency = found["latency_ms"]
    traffic = (
        f"{found['requests']:,} requests in {found['seconds']:g} s, {found['failed']} failed, "
        f"{found['fallbacks']} fallbacks; latency p50 {latency['p50']:g} ms, "
        f"p99 {latency['p99']:g} ms"
    )
    parity = (
        f"online = offline: features {_said(found['features_online_vs_offline'])}; "
        f"scores {_said(found['scores_online_vs_offline'])}"
    )
    return [
        *table(header, rows),
        "",
        traffic,
        parity,
        f"rollout {found['rollout']['state']}:",
        *(f"  {_clock(event)} {describe_event(event)}" for event in found["rollout"]["events"]),
    ]


def _cells(found: Mapping[str, Any], role: str, trained: Registered) -> Sequence[str]:
    live = found["versions"][role]["replay"]
    names = FIGURES[found["task"]]
    return (
        *(_figure(trained.metrics.get(name)) for name in names),
        *(_figure(live[name]) for name in names),
        f"{found['versions'][role]['answered']:,}",
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"


def _said(report: Mapping[str, Any]) -> str:
    return f"{report['values']:,} values, {report['different']} different"


def _clock(event: Mapping[str, Any]) -> str:
    at = event.get("at")
    return datetime.fromisoformat(str(at)).astimezone().strftime("%H:%M:%S") if at else "-"


def farewell(
    recipe: PipelineRecipe, connection: Connection, found: Mapping[str, Any], replayed: Replayed
) -> list[str]:
    """Say where to look and what to try next; the commands work as printed."""
    body = json.dumps(
        {
            "inputs": [
                {
                    "name": key,
                    "shape": [1],
                    "datatype": datatype(value),
                    "data": [value],
                }
                for key, value in replayed.sample.values.items()
            ]
        }
    )
    url = f"{connection.endpoint}/v2/models/{recipe.model}/infer"
    at = replayed.sample.at.isoformat()
    return [
        "",
        f"endpoint        {url}",
        f"Ray dashboard   {connection.dashboard_url}",
        f"MLflow          {connection.tracking_uri}",
        f"rollout status  {connection.endpoint}/v1/rollouts/{found['rollout']['id']}",
        "",
        "Ask for a prediction with all inputs:"
        if recipe.service is None
        else "Ask for a prediction by entity keys; the features come from the online store:",
        f"  curl -s {url} -H 'x-heliostat-at: {at}' -d {shlex.quote(body)}",
        "",
        "Next: see why traffic moved, with the numbers",
        f"  .venv/bin/python -m heliostat rollout explain {found['rollout']['id']}",
        "The platform stays up until: make down",
    ]


def judge(found: Mapping[str, Any]) -> None:
    """Refuse a run whose evidence is not what a canary needs, whatever the verdict was.

    Raises:
        GateRefused: A request failed, or online differs from offline, or the candidate was
            not promoted.
    """
    for where, name in (
        ("features_online_vs_offline", "features that differ online"),
        ("scores_online_vs_offline", "scores that differ online"),
    ):
        if found[where]["different"]:
            raise GateRefused("the run", name, found[where]["examples"][:3], "none")
    if found["failed"]:
        raise GateRefused("the run", "failed requests", found["failures"][:3], "none")
    rollout = found["rollout"]
    if rollout["state"] != "promoted":
        raise GateRefused(
            f"version {found['versions']['candidate']['version']}",
            f"rollout {rollout['id']}",
            f"{rollout['state']}: {rollout['because']}",
            "promoted",
        )


def to_json(found: Mapping[str, Any]) -> str:
    """Print the summary as it is stored."""
    return json.dumps(found, indent=2, sort_keys=True, default=str) + "\n"
