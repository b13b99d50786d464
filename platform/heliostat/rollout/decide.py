"""Decides what happens next in a rollout: a pure function of its state, its evidence and the time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from heliostat.rollout import comparing, gates
from heliostat.rollout.allowed import Comparison
from heliostat.rollout.comparing import Look
from heliostat.rollout.gates import GateVerdict
from heliostat.rollout.known import Compared, Evidence
from heliostat.rollout.plan import RolloutPlan
from heliostat.rollout.state import Outcome, RolloutState

START_RETRY_S = 3.0
"""Time between two attempts to start a candidate."""

MAX_START_FAILURES = 3
"""So often a candidate may fail to start before its rollout ends."""

DRAIN_S = 2.0
"""Time between taking the traffic off a candidate and stopping it, for requests under way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StartCandidate:
    """Bring up the candidate's capacity; it gets no traffic yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecideStep:
    """Write down that the rollout moves to a step; its traffic follows."""

    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishStep:
    """Give the candidate the traffic of a step that was decided on."""

    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class TakeLook:
    """Write down what a planned look at an A/B test has found."""

    look: Look


@dataclass(frozen=True, kw_only=True, slots=True)
class DecideBake:
    """Write down that the candidate is promoted for a trial; its traffic follows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishBake:
    """Make the candidate stable, with the version before still at hand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecideOutcome:
    """Write down how the rollout ends; traffic and capacity follow."""

    outcome: Outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class MoveTraffic:
    """Give all traffic to one version."""

    version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StopCandidate:
    """Take down the candidate's capacity, which has no traffic any more."""


Action = (
    StartCandidate
    | DecideStep
    | PublishStep
    | TakeLook
    | DecideBake
    | PublishBake
    | DecideOutcome
    | MoveTraffic
    | StopCandidate
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What to do now, and why."""

    actions: tuple[Action, ...]
    """At most one; empty means hold. Carrying one out twice is harmless."""

    because: str
    at: float | None = None
    """When it was decided, by the clock of the events."""

    verdicts: tuple[GateVerdict, ...] = ()
    """What each gate said; empty while the candidate has no traffic."""


def decide(state: RolloutState, evidence: Evidence, now: float) -> Decision:
    """Say what to do next.

    Capacity comes before traffic and traffic goes before capacity. Harm is acted on at
    once, whatever the step still waits for. A step is left only when every gate that must
    pass has passed and the candidate had its requests at this very step; time alone moves
    nothing, except back to stable. Steps are taken one by one.

    Args:
        state: The rollout so far.
        evidence: Gathered since the rollout began.
        now: Seconds since 1970, by the clock of the events and the evidence.
    """
    return replace(_decide(state, evidence, now), at=now)


def _decide(state: RolloutState, evidence: Evidence, now: float) -> Decision:
    if state.ended_at is not None:
        return Decision(actions=(), because=f"has ended: {state.outcome}")
    if state.outcome is not None:
        return _finish(state, now)
    if state.abort_reason is not None:
        return _end("aborted", f"aborted: {state.abort_reason}")
    if state.candidate is None:
        return _start(state, now)
    if state.bake_decided:
        return _bake(state, evidence, now)
    if state.reached_step is None and state.wanted_step is None:
        first = state.plan.steps_percent[0]
        return Decision(
            actions=(DecideStep(step=0),),
            because=f"candidate {state.plan.candidate} is up; first step {first:g} %",
        )
    moving = state.wanted_step != state.reached_step
    if moving:
        evidence = _settled(state, evidence)
    verdicts = gates.judge(state.plan, evidence, _compared_shares(state), now)
    failed = [verdict for verdict in verdicts if verdict.verdict == "fail"]
    if failed:
        words = "; ".join(f"{verdict.gate}: {verdict.because}" for verdict in failed)
        return _end("rolled_back", words, verdicts)
    if moving and state.wanted_step is not None:
        percent = state.plan.steps_percent[state.wanted_step]
        return Decision(
            actions=(PublishStep(step=state.wanted_step),),
            because=f"step {percent:g} % was decided on",
            verdicts=verdicts,
        )
    return _judge_step(state, evidence, verdicts, now)


def _compared_shares(state: RolloutState) -> Mapping[int, float]:
    """The candidate's share of the units that are compared, by the epoch from which it held."""
    if not state.plan.twin:
        return state.shares
    return {epoch: share / (share + twin_share(share)) for epoch, share in state.shares.items()}


def twin_share(share: float) -> float:
    """Share of all units that the twin takes beside a candidate with this one.

    >>> [twin_share(share) for share in (0.25, 0.5, 0.75, 1.0)]
    [0.25, 0.5, 0.25, 0.0]
    """
    return min(share, 1 - share)


def _settled(state: RolloutState, evidence: Evidence) -> Evidence:
    """Leave out splits whose weights are not known for sure.

    A step may have been published and not yet been recorded so, by a process that died.
    """
    known = max(state.shares, default=0)
    return replace(evidence, splits=tuple(item for item in evidence.splits if item.epoch <= known))


def _judge_step(
    state: RolloutState, evidence: Evidence, verdicts: tuple[GateVerdict, ...], now: float
) -> Decision:
    plan, step = state.plan, state.reached_step
    assert step is not None
    assert state.step_epoch is not None
    assert state.step_since is not None
    if plan.comparison is not None:
        return _compare(state, plan.comparison, evidence, verdicts, now)
    percent = plan.steps_percent[step]
    # Without traffic there are no errors and no times of the candidate's own.
    idle = ("errors", "latency") if percent == 0 else ()
    waits = _waits(verdicts, (*plan.optional, *idle))
    requests = evidence.requests_since(state.step_epoch)
    what = "requests"
    if percent == 0:
        requests, what = evidence.gaps.count, "rows scored by both"
    if requests < plan.min_requests_per_step:
        waits.insert(0, f"{requests} of {plan.min_requests_per_step} {what} at this step")
    held = _held(state, step, now)
    if not waits and held:
        return Decision(actions=(), because=held, verdicts=verdicts)
    if not waits:
        words = f"all gates pass at {percent:g} % after {requests} {what}"
        if step + 1 < len(plan.steps_percent):
            return Decision(actions=(DecideStep(step=step + 1),), because=words, verdicts=verdicts)
        if plan.kind == "shadow":
            return _end("concluded", f"{words}; {_mirrored(evidence)}", verdicts)
        return _promote(plan, words, verdicts)
    if state.paused is None and now - state.step_since > plan.max_inconclusive_s:
        words = f"no verdict at {percent:g} % within {plan.max_inconclusive_s:g} s: "
        return _end("rolled_back", words + "; ".join(waits), verdicts)
    return Decision(actions=(), because="; ".join(waits), verdicts=verdicts)


def _waits(verdicts: tuple[GateVerdict, ...], waived: tuple[str, ...]) -> list[str]:
    return [
        f"{verdict.gate} is {verdict.verdict}: {verdict.because}"
        for verdict in verdicts
        if verdict.verdict != "pass" and verdict.gate not in waived
    ]


def _mirrored(evidence: Evidence) -> str:
    """How far the scores of both versions are apart."""
    gaps = evidence.gaps
    return (
        f"scores are {gaps.mean:.4f} apart on average over {gaps.count} rows, "
        f"{evidence.flips} of them on the other side of one half"
    )


def _promote(plan: RolloutPlan, words: str, verdicts: tuple[GateVerdict, ...]) -> Decision:
    action = DecideBake() if plan.bake_s > 0 else DecideOutcome(outcome="promoted")
    return Decision(actions=(action,), because=words, verdicts=verdicts)


def _compare(
    state: RolloutState,
    comparison: Comparison,
    evidence: Evidence,
    verdicts: tuple[GateVerdict, ...],
    now: float,
) -> Decision:
    """Go on with an A/B test: its planned looks alone say who is better."""
    plan, last = state.plan, state.looks[-1] if state.looks else None
    assert state.step_since is not None
    share = plan.steps_percent[0] / 100
    if last is not None and (last.found or last.information >= 1):
        words = comparing.words(comparison, last, len(state.looks))
        if not last.found:
            return _end("concluded", words, verdicts)
        if (last.difference > 0) != comparison.higher_is_better:
            return _end("rolled_back", words, verdicts)
        if comparison.on_win == "promote":
            return _promote(plan, words, verdicts)
        return _end("concluded", words, verdicts)
    compared = evidence.compared or Compared()
    if state.paused is not None:
        return Decision(actions=(), because=f"paused: {state.paused}", verdicts=verdicts)
    if comparing.due(comparison, compared, share, len(state.looks)):
        look = comparing.look(comparison, compared, share, state.looks)
        if look is not None:
            words = comparing.words(comparison, look, len(state.looks) + 1)
            return Decision(actions=(TakeLook(look=look),), because=words, verdicts=verdicts)
    needed = comparison.units_needed(share)
    words = f"{compared.units} of {needed} units have an outcome of {comparison.metric}"
    if now - state.step_since > plan.max_inconclusive_s:
        words = f"the sample was not reached within {plan.max_inconclusive_s:g} s: {words}"
        return _end("concluded", words, verdicts)
    return Decision(actions=(), because=words, verdicts=verdicts)


def _bake(state: RolloutState, evidence: Evidence, now: float) -> Decision:
    """After the promotion: harm takes it back, and enough time without harm makes it final."""
    plan = state.plan
    if state.bake_epoch is None or state.bake_since is None:
        return Decision(actions=(PublishBake(),), because="the promotion was decided on")
    shares = {state.bake_epoch: 1 - plan.bake_percent / 100}
    verdicts = gates.judge(plan, evidence, shares, now)
    failed = [verdict for verdict in verdicts if verdict.verdict == "fail"]
    if failed:
        words = "; ".join(f"{verdict.gate}: {verdict.because}" for verdict in failed)
        return _end("rolled_back", f"taken back within the bake window: {words}", verdicts)
    past_s, percent = now - state.bake_since, 100 - plan.bake_percent
    # A canary has passed all gates on its way; blue and green meet under traffic here only.
    waits = _waits(verdicts, plan.optional) if plan.kind == "blue_green" else []
    requests = evidence.requests_since(state.bake_epoch)
    if requests < plan.min_requests_per_step:
        waits.insert(0, f"{requests} of {plan.min_requests_per_step} requests since the promotion")
    if evidence.last_report_at is None or now - evidence.last_report_at > plan.evidence_stale_s:
        waits.insert(0, "no fresh report of a gateway")
    if state.paused is not None:
        return Decision(actions=(), because=f"paused: {state.paused}", verdicts=verdicts)
    if past_s < plan.bake_s:
        words = f"promoted; {past_s:.0f} of {plan.bake_s:g} s at {percent:g} % without harm"
        return Decision(actions=(), because=words, verdicts=verdicts)
    if not waits:
        words = f"no harm within {plan.bake_s:g} s after the promotion, in {requests} requests"
        return _end("promoted", words, verdicts)
    if past_s > plan.bake_s + plan.max_inconclusive_s:
        return _end("rolled_back", "no verdict after the promotion: " + "; ".join(waits), verdicts)
    return Decision(actions=(), because="; ".join(waits), verdicts=verdicts)


def _held(state: RolloutState, step: int, now: float) -> str:
    """Why a step is not left although all gates pass; empty if nothing holds it."""
    assert state.step_since is not None
    plan, percent = state.plan, state.plan.steps_percent[step]
    if state.paused is not None:
        return f"paused: {state.paused}"
    if state.hurried:
        return ""
    if now - state.step_since < plan.hold_s:
        return f"all gates pass; {now - state.step_since:.0f} of {plan.hold_s:g} s at {percent:g} %"
    if percent in plan.approvals_percent and step not in state.approved:
        return f"all gates pass at {percent:g} %; somebody must approve the next move"
    return ""


def _start(state: RolloutState, now: float) -> Decision:
    if state.start_failures >= MAX_START_FAILURES:
        return _end("rolled_back", f"the candidate does not start: {state.last_failure}")
    if now - state.started_at > state.plan.max_inconclusive_s:
        limit = f"{state.plan.max_inconclusive_s:g} s"
        return _end("rolled_back", f"the candidate was not up within {limit}")
    if state.failed_at is not None and now - state.failed_at < START_RETRY_S:
        return Decision(actions=(), because=f"starts again soon: {state.last_failure}")
    return Decision(actions=(StartCandidate(),), because="the candidate is not up yet")


def _finish(state: RolloutState, now: float) -> Decision:
    if state.traffic_moved_at is None:
        return Decision(
            actions=(MoveTraffic(version=state.survivor),),
            because=f"{state.outcome}: all traffic goes to version {state.survivor}",
        )
    if now - state.traffic_moved_at < DRAIN_S:
        return Decision(actions=(), because="requests under way may finish")
    return Decision(
        actions=(StopCandidate(),),
        because=f"version {state.plan.candidate} has no traffic of its own any more",
    )


def _end(outcome: Outcome, because: str, verdicts: tuple[GateVerdict, ...] = ()) -> Decision:
    return Decision(actions=(DecideOutcome(outcome=outcome),), because=because, verdicts=verdicts)
