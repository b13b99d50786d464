"""Says in words where a rollout stands and why, from the controller's own account of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_OUTCOMES = {
    "promoted": "was promoted",
    "rolled_back": "was rolled back",
    "aborted": "was aborted",
}


def standing(rollout: Mapping[str, Any]) -> str:
    """Where it stands, in one sentence."""
    who = f"Version {rollout['candidate']} of {rollout['model']}"
    if rollout["outcome"]:
        return f"{who} {_OUTCOMES[rollout['outcome']]}: {rollout['because']}."
    if rollout["share_percent"] == 0:
        return f"{who} has no traffic yet: {rollout['waiting_for'] or 'the candidate starts'}."
    share = f"{who} answers {rollout['share_percent']:g} % of the units"
    return f"{share} and stays there: {rollout['waiting_for'] or 'nothing was decided yet'}."


def explain(rollout: Mapping[str, Any]) -> list[str]:
    """Everything that matters for the next move, line by line.

    Args:
        rollout: What ``GET /v1/rollouts/ID`` answers.
    """
    lines = [standing(rollout)]
    if rollout.get("paused"):
        lines.append(f"No step is taken, since it was paused: {rollout['paused']}.")
    if rollout["gates"]:
        lines.append("The gates, when they were last asked:")
    lines += [
        f"  {gate['gate']} {_VERDICTS[gate['verdict']]}: {gate['because']}."
        for gate in rollout["gates"]
    ]
    stable, candidate = rollout["variants"]["stable"], rollout["variants"]["candidate"]
    lines.append(
        f"Stable version {stable['version']} was asked {stable['requests']:,} times, "
        f"the candidate {candidate['requests']:,} times; "
        f"{rollout['labelled_pairs']:,} rows were scored by both and have their label."
    )
    age = rollout["evidence"]["last_report_age_s"]
    if not rollout["outcome"]:
        lines.append(
            "No gateway has reported yet."
            if age is None
            else f"The last report is {age:.1f} s old."
        )
    steps = [event for event in rollout["events"] if event["kind"] == "rollout.step_reached"]
    if steps:
        way = ", ".join(f"{event['percent']:g} % after {event['seconds']:.0f} s" for event in steps)
        lines.append(f"It came to {way}.")
    return lines


_VERDICTS = {
    "pass": "passes",
    "fail": "fails",
    "inconclusive": "cannot tell yet",
    "error": "could not be judged",
}
