"""Where a model's rollouts stand: a pure fold of the events of one model's stream."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from heliostat.rollout.comparing import Look
from heliostat.rollout.known import Evidence
from heliostat.rollout.plan import RolloutPlan
from heliostat.rollout.policy import Variant

_NO_EVIDENCE = Evidence()

Outcome = Literal["promoted", "rolled_back", "aborted", "concluded"]
"""Concluded: an A/B test or a shadow has found what it was for, and stable goes on."""

Phase = Literal["starting", "moving", "running", "baking", "ending", "draining", "ended"]

PAST_KEPT = 20
"""So many versions that were stable before are remembered."""


class Recorded(Protocol):
    """What the fold reads of an event; the store's events fit."""

    @property
    def kind(self) -> str:
        """What happened."""
        ...

    @property
    def payload(self) -> Mapping[str, Any]:
        """Plain JSON values."""
        ...

    @property
    def at(self) -> float:
        """When, in seconds since 1970."""
        ...

    @property
    def version(self) -> int:
        """Place in the stream."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutState:
    """One rollout, as far as its events tell."""

    rollout_id: str
    plan: RolloutPlan
    stable: str
    """The version that answered before; all traffic returns to it unless promoted."""

    started_at: float
    candidate: Variant | None = None
    """The candidate once its capacity is up."""

    twin: Variant | None = None
    """The stable version's twin, if the plan has one, once it is up."""

    start_failures: int = 0
    last_failure: str = ""
    failed_at: float | None = None

    wanted_step: int | None = None
    """Index of the step that was decided on."""

    reached_step: int | None = None
    """Index of the step whose weights were published."""

    step_epoch: int | None = None
    """First policy epoch of the reached step."""

    step_since: float | None = None
    """When it was published."""

    shares: Mapping[int, float] = field(default_factory=dict)
    """The candidate's share by the epoch from which it held."""

    bake_decided: bool = False
    """Whether the candidate was promoted and the version before is still at hand."""

    bake_epoch: int | None = None
    """First policy epoch of the bake."""

    bake_since: float | None = None

    looks: tuple[Look, ...] = ()
    """What an A/B test found at each planned look."""

    evidence: Evidence = _NO_EVIDENCE
    """What was known at the last decision; a new process goes on from there."""

    paused: str | None = None
    """Why no step is taken for now; None while steps may be taken."""

    approved: frozenset[int] = frozenset()
    """Indices of the steps that somebody allowed the candidate to leave."""

    hurried: bool = False
    """Whether hold times and approvals were waived; gates never are."""

    abort_reason: str | None = None
    outcome: Outcome | None = None
    because: str = ""
    traffic_moved_at: float | None = None
    """When all traffic was given to the version that the outcome names."""

    ended_at: float | None = None

    @property
    def phase(self) -> Phase:
        """What the rollout is waiting for."""
        if self.ended_at is not None:
            return "ended"
        if self.outcome is not None:
            return "ending" if self.traffic_moved_at is None else "draining"
        if self.candidate is None:
            return "starting"
        if self.bake_decided:
            return "moving" if self.bake_epoch is None else "baking"
        return "running" if self.wanted_step == self.reached_step is not None else "moving"

    @property
    def percent(self) -> float:
        """The candidate's share of units by the weights last published, 0 to 100."""
        if self.traffic_moved_at is not None:
            return 100.0 if self.outcome == "promoted" else 0.0
        if self.bake_epoch is not None:
            return 100.0 - self.plan.bake_percent
        return 0.0 if self.reached_step is None else self.plan.steps_percent[self.reached_step]

    @property
    def survivor(self) -> str:
        """The version that has all traffic when the rollout has ended, or would if it ended now."""
        return self.plan.candidate if self.outcome == "promoted" else self.stable


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """A version that was stable before, and was left for another one."""

    version: str
    until: float
    is_good: bool
    """False where somebody went back from it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """A version to be made stable at once."""

    version: str
    requested_at: float
    number: int
    """Version of the event that asked for it."""

    is_return: bool = False
    """Whether it goes back from a stable version that is not wanted any more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelState:
    """One model: who is stable, what is asked for, and all its rollouts."""

    model: str
    version: int = 0
    """Version of the last folded event."""

    stable: str | None = None
    frozen: str | None = None
    """Why no rollout starts or moves on; what is harmful is still taken back."""

    past: tuple[Past, ...] = ()
    """Versions that were stable before, the newest last."""

    deployment: Deployment | None = None
    """The newest deployment that is not done."""

    rollouts: Mapping[str, RolloutState] = field(default_factory=dict)
    current: str | None = None
    """Id of the rollout that has not ended."""

    @property
    def rollout(self) -> RolloutState | None:
        """The rollout that has not ended, if any."""
        return None if self.current is None else self.rollouts[self.current]


def fold(state: ModelState, events: Iterable[Recorded]) -> ModelState:
    """Apply events in order; the same events always give the same state."""
    for event in events:
        state = replace(_apply(state, event), version=event.version)
    return state


def _apply(state: ModelState, event: Recorded) -> ModelState:
    payload = event.payload
    if event.kind == "deployment.requested":
        deployment = Deployment(
            version=payload["version"],
            requested_at=event.at,
            number=event.version,
            is_return=payload.get("is_return", False),
        )
        return replace(state, deployment=deployment)
    if event.kind in ("deployment.done", "deployment.failed"):
        if state.deployment is None or state.deployment.number != payload["number"]:
            return state
        if event.kind == "deployment.failed":
            return replace(state, deployment=None)
        is_good = not state.deployment.is_return
        return replace(
            _follow(state, payload["version"], event.at, is_good=is_good), deployment=None
        )
    if event.kind in ("model.frozen", "model.thawed"):
        return replace(state, frozen=payload["because"] if event.kind == "model.frozen" else None)
    if event.kind == "rollout.started":
        rollout = RolloutState(
            rollout_id=payload["rollout_id"],
            plan=RolloutPlan.from_dict(payload["plan"]),
            stable=payload["stable"],
            started_at=event.at,
        )
        return replace(
            state,
            rollouts={**state.rollouts, rollout.rollout_id: rollout},
            current=rollout.rollout_id,
        )
    if event.kind.startswith("rollout."):
        rollout = _advance(state.rollouts[payload["rollout_id"]], event)
        state = replace(state, rollouts={**state.rollouts, rollout.rollout_id: rollout})
        if event.kind == "rollout.ended":
            return replace(_follow(state, rollout.survivor, event.at), current=None)
    return state


def _follow(state: ModelState, stable: str, at: float, *, is_good: bool = True) -> ModelState:
    """Another version is stable now; the one before is remembered."""
    if state.stable is None or state.stable == stable:
        return replace(state, stable=stable)
    left = Past(version=state.stable, until=at, is_good=is_good)
    return replace(state, stable=stable, past=(*state.past, left)[-PAST_KEPT:])


def _advance(rollout: RolloutState, event: Recorded) -> RolloutState:
    payload = event.payload
    match event.kind:
        case "rollout.candidate_started":
            twin = payload.get("twin")
            return replace(
                rollout,
                candidate=Variant(**payload["variant"]),
                twin=None if twin is None else Variant(**twin),
            )
        case "rollout.action_failed":
            failed = payload["action"] == "StartCandidate"
            return replace(
                rollout,
                start_failures=rollout.start_failures + failed,
                last_failure=payload["error"],
                failed_at=event.at,
            )
        case "rollout.step_decided":
            known = Evidence.from_dict(payload["evidence"])
            return replace(rollout, wanted_step=payload["step"], evidence=known)
        case "rollout.step_reached":
            share = rollout.plan.steps_percent[payload["step"]] / 100
            return replace(
                rollout,
                reached_step=payload["step"],
                step_epoch=payload["epoch"],
                step_since=event.at,
                shares={**rollout.shares, payload["epoch"]: share},
            )
        case "rollout.bake_decided":
            known = Evidence.from_dict(payload["evidence"])
            return replace(rollout, bake_decided=True, evidence=known)
        case "rollout.bake_reached":
            return replace(
                rollout,
                bake_epoch=payload["epoch"],
                bake_since=event.at,
                evidence=_NO_EVIDENCE,
            )
        case "rollout.looked":
            look = Look.from_dict(payload["look"])
            known = Evidence.from_dict(payload["evidence"])
            return replace(rollout, looks=(*rollout.looks, look), evidence=known)
        case "rollout.paused":
            return replace(rollout, paused=payload["because"])
        case "rollout.resumed":
            # The time that was spent paused counts neither as held nor as undecided.
            since = None if rollout.step_since is None else event.at
            bake_since = None if rollout.bake_since is None else event.at
            return replace(rollout, paused=None, step_since=since, bake_since=bake_since)
        case "rollout.approved":
            return replace(rollout, approved=rollout.approved | {payload["step"]})
        case "rollout.promote_requested":
            return replace(rollout, hurried=True)
        case "rollout.abort_requested":
            return replace(rollout, abort_reason=rollout.abort_reason or payload["because"])
        case "rollout.outcome_decided":
            if rollout.outcome is not None:
                return rollout
            return replace(
                rollout,
                outcome=payload["outcome"],
                because=payload["because"],
                evidence=Evidence.from_dict(payload["evidence"]),
            )
        case "rollout.traffic_moved":
            return replace(rollout, traffic_moved_at=event.at)
        case "rollout.ended":
            return replace(rollout, ended_at=event.at)
    return rollout
