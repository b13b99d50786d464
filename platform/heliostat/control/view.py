"""Rollouts as people and tools see them: plain JSON values with words and numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from heliostat.control.controller import Controller, stream
from heliostat.rollout.evidence import LATENCY_EDGES_MS
from heliostat.rollout.known import Evidence, Tally
from heliostat.rollout.state import RolloutState
from heliostat.stats import quantiles
from heliostat.stats.means import Moments

_NOT_SHOWN = frozenset(
    {
        "rollout_id",
        "because",
        "error",
        "evidence",
        "verdicts",
        "plan",
        "variant",
        "twin",
        "decided_at",
        "by",
    }
)


def summary(rollout: RolloutState) -> dict[str, Any]:
    """The state of a rollout in a few fields.

    ``state`` is the outcome once it has ended (promoted, rolled_back or aborted), before
    that its phase.
    """
    step = rollout.wanted_step
    return {
        "id": rollout.rollout_id,
        "model": rollout.plan.model,
        "stable": rollout.stable,
        "candidate": rollout.plan.candidate,
        "state": rollout.outcome if rollout.ended_at is not None else rollout.phase,
        "outcome": rollout.outcome,
        "because": rollout.because or None,
        "paused": rollout.paused,
        "step": None if step is None else step + 1,
        "steps_percent": list(rollout.plan.steps_percent),
        "share_percent": rollout.percent,
        "weights": _weights(rollout),
        "started_at": _time(rollout.started_at),
        "ended_at": None if rollout.ended_at is None else _time(rollout.ended_at),
    }


def details(controller: Controller, rollout: RolloutState) -> dict[str, Any]:
    """Everything about one rollout: gates with numbers, both versions, events with reasons."""
    now = controller.clock()
    evidence = controller.evidence(rollout) or rollout.evidence
    decision = controller.decision(rollout.rollout_id)
    model = rollout.plan.model
    events = [
        event
        for event in controller.log.read(stream(model))
        if event.payload.get("rollout_id") == rollout.rollout_id
    ]
    verdicts: list[Any] = next(
        (event.payload["verdicts"] for event in reversed(events) if event.payload.get("verdicts")),
        [],
    )
    waiting_for = None
    if decision is not None and rollout.outcome is None:
        waiting_for = decision.because
        verdicts = [verdict.to_dict() for verdict in decision.verdicts]
    loss = "log_loss" if rollout.plan.loss is None else rollout.plan.loss.of
    return {
        **summary(rollout),
        "waiting_for": waiting_for,
        "epoch": rollout.step_epoch,
        "gates": verdicts,
        "variants": {
            "stable": _variant(rollout.stable, evidence.stable, loss, evidence.stable_loss),
            "candidate": _variant(
                rollout.plan.candidate, evidence.candidate, loss, evidence.candidate_loss
            ),
        },
        "labelled_pairs": evidence.loss_difference.count,
        f"{loss}_difference": _mean(evidence.loss_difference),
        "evidence": _freshness(evidence, now),
        "plan": rollout.plan.to_dict(),
        "kind": rollout.plan.kind,
        "warnings": warnings(controller, rollout),
        "looks": [look.to_dict() for look in rollout.looks],
        "mirrored": {
            "rows": evidence.gaps.count,
            "mean_gap": _mean(evidence.gaps),
            "flips": evidence.flips,
        },
        "events": [
            {
                "at": _time(event.at),
                "seconds": round(event.at - rollout.started_at, 3),
                "kind": event.kind,
                "by": event.payload.get("by"),
                "reason": event.payload.get("because") or event.payload.get("error"),
                **{key: event.payload[key] for key in event.payload if key not in _NOT_SHOWN},
            }
            for event in events
        ],
    }


def warnings(controller: Controller, rollout: RolloutState) -> list[str]:
    """What the plan will not reach at the traffic that there was when it began."""
    for event in controller.log.read(stream(rollout.plan.model)):
        if event.kind == "rollout.started" and event.payload["rollout_id"] == rollout.rollout_id:
            return list(event.payload.get("warnings", []))
    return []


def status(controller: Controller) -> dict[str, Any]:
    """What each model serves, the policy's epoch, and whether this controller leads."""
    policy = controller.policies.current()
    models = {}
    for model in controller.models():
        state = controller.state(model)
        part = None if policy is None else policy.models.get(model)
        models[model] = {
            "stable": state.stable,
            "shares_percent": {}
            if part is None
            else {
                variant.name: round(100 * part.share(index), 2)
                for index, variant in enumerate(part.variants)
            },
            "requests_per_s": controller.rates.per_s(model, controller.clock()),
            "rollout": state.current,
            "deployment": None if state.deployment is None else state.deployment.version,
        }
    return {
        "leads": controller.leads,
        "epoch": None if policy is None else policy.epoch,
        "models": models,
    }


def _weights(rollout: RolloutState) -> dict[str, float]:
    share = rollout.percent / 100
    return {rollout.stable: round(1 - share, 6), rollout.plan.candidate: share}


def _variant(version: str, tally: Tally, loss: str, mean: Moments) -> dict[str, Any]:
    def quantile(level: float) -> float | None:
        value = quantiles.estimate(tally.latency, LATENCY_EDGES_MS, level)
        return None if value is None or math.isinf(value) else round(value, 3)

    return {
        "version": version,
        "requests": tally.requests,
        "errors": tally.errors,
        "error_ratio": tally.errors / tally.requests if tally.requests else None,
        "latency_ms": {"p50": quantile(0.5), "p95": quantile(0.95), "p99": quantile(0.99)},
        loss: _mean(mean),
    }


def _freshness(evidence: Evidence, now: float) -> Mapping[str, Any]:
    def age(at: float | None) -> float | None:
        return None if at is None else round(now - at, 3)

    dropped = evidence.dropped
    return {
        "last_report_age_s": age(evidence.last_report_at),
        "last_label_age_s": age(evidence.last_label_at),
        "pairs_waiting_for_labels": evidence.waiting_pairs,
        "dropped": {name: getattr(dropped, name) for name in type(dropped).__dataclass_fields__},
    }


def _mean(moments: Moments) -> float | None:
    return round(moments.mean, 6) if moments.count and math.isfinite(moments.mean) else None


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
