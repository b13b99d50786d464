"""Decides a recorded rollout again: the same log must lead to the same decisions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from heliostat.rollout.decide import DecideOutcome, DecideStep, decide
from heliostat.rollout.known import Evidence
from heliostat.rollout.state import ModelState, Recorded, fold


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A recorded decision that this code would not make."""

    version: int
    """Of the event."""

    recorded: str
    decided: str


def check(model: str, events: Iterable[Recorded]) -> tuple[int, list[Difference]]:
    """Make every recorded decision again; returns how many there were, and those that differ.

    Args:
        model: Whose stream it is.
        events: The whole stream, in order, from its first event.
    """
    state, count, differences = ModelState(model=model), 0, []
    for event in events:
        decided = event.kind in ("rollout.step_decided", "rollout.outcome_decided")
        # Logs of earlier versions do not say when a decision was made; those are left out.
        if decided and "decided_at" in event.payload:
            count += 1
            payload = event.payload
            rollout = state.rollouts[payload["rollout_id"]]
            if state.frozen is not None and rollout.paused is None:
                rollout = replace(rollout, paused=f"model frozen, {state.frozen}")
            evidence = Evidence.from_dict(payload["evidence"])
            decision = decide(rollout, evidence, payload["decided_at"])
            action = (
                DecideStep(step=payload["step"])
                if event.kind == "rollout.step_decided"
                else DecideOutcome(outcome=payload["outcome"])
            )
            recorded = f"{action}, {payload['because']}"
            again = f"{', '.join(map(str, decision.actions))}, {decision.because}"
            if recorded != again:
                differences.append(
                    Difference(version=event.version, recorded=recorded, decided=again)
                )
        state = fold(state, [event])
    return count, differences
