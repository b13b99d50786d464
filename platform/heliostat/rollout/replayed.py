"""Decides a recorded rollout again: the same log must lead to the same decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from heliostat.rollout.comparing import Look
from heliostat.rollout.decide import (
    Action,
    DecideBake,
    DecideOutcome,
    DecideStep,
    TakeLook,
    decide,
)
from heliostat.rollout.known import Evidence
from heliostat.rollout.state import ModelState, Recorded, fold


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A recorded decision that this code would not make."""

    version: int
    """Of the event."""

    recorded: str
    decided: str


_ACTIONS: Mapping[str, Callable[[Mapping[str, Any]], Action]] = {
    "rollout.step_decided": lambda payload: DecideStep(step=payload["step"]),
    "rollout.looked": lambda payload: TakeLook(look=Look.from_dict(payload["look"])),
    "rollout.bake_decided": lambda _: DecideBake(),
    "rollout.outcome_decided": lambda payload: DecideOutcome(outcome=payload["outcome"]),
}
"""Kinds of events that a decision leads to, and that decision."""


def check(model: str, events: Iterable[Recorded]) -> tuple[int, list[Difference]]:
    """Make every recorded decision again; returns how many there were, and those that differ.

    Args:
        model: Whose stream it is.
        events: The whole stream, in order, from its first event.
    """
    state, count, differences = ModelState(model=model), 0, []
    for event in events:
        decided = event.kind in _ACTIONS
        # Logs of earlier versions do not say when a decision was made; those are left out.
        if decided and "decided_at" in event.payload:
            count += 1
            payload = event.payload
            rollout = state.rollouts[payload["rollout_id"]]
            if state.frozen is not None and rollout.paused is None:
                rollout = replace(rollout, paused=f"model frozen, {state.frozen}")
            evidence = Evidence.from_dict(payload["evidence"])
            decision = decide(rollout, evidence, payload["decided_at"])
            action = _ACTIONS[event.kind](payload)
            recorded = f"{action}, {payload['because']}"
            again = f"{', '.join(map(str, decision.actions))}, {decision.because}"
            if recorded != again:
                differences.append(
                    Difference(version=event.version, recorded=recorded, decided=again)
                )
        state = fold(state, [event])
    return count, differences
