"""Says in words where a rollout stands and why, from the controller's own account of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_OUTCOMES = {
    "promoted": "was promoted",
    "rolled_back": "was rolled back",
    "aborted": "was aborted",
    "concluded": "was tried to the end of its plan, and stable goes on",
}


def standing(rollout: Mapping[str, Any]) -> str:
    """Where it stands, in one sentence."""
    who = f"Version {rollout['candidate']} of {rollout['model']}"
    if rollout["outcome"]:
        return f"{who} {_OUTCOMES[rollout['outcome']]}: {rollout['because']}."
    if rollout["share_percent"] == 0:
        return f"{who} has no traffic yet: {rollout['waiting_for'] or 'the candidate starts'}."
    if rollout["state"] == "baking":
        waits = rollout["waiting_for"] or "nothing was decided yet"
        return f"{who} was promoted and can still be taken back: {waits}."
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
    lines += [f"When it began: {warning}." for warning in rollout.get("warnings", [])]
    asked = _asked(rollout["events"])
    if asked:
        lines.append(f"People had a hand in it: {asked}.")
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
    mirrored = rollout.get("mirrored") or {"rows": 0}
    if mirrored["rows"]:
        lines.append(
            f"Both versions scored the same {mirrored['rows']:,} rows: their scores are "
            f"{mirrored['mean_gap']:.4f} apart on average, and {mirrored['flips']:,} of them fall "
            "on different sides of one half."
        )
    for number, look in enumerate(rollout.get("looks", []), start=1):
        lines.append(
            f"Look {number}, at {look['units']:,} units: the candidate differs by "
            f"{look['difference']:+.4g}, surely between {look['low']:+.4g} and {look['high']:+.4g}."
        )
    steps = [event for event in rollout["events"] if event["kind"] == "rollout.step_reached"]
    if steps:
        way = ", ".join(f"{event['percent']:g} % after {event['seconds']:.0f} s" for event in steps)
        lines.append(f"It came to {way}.")
    return lines


def _asked(events: Sequence[Mapping[str, Any]]) -> str:
    """What was asked for by others than the controller itself."""
    found = []
    for event in events:
        words = _REQUESTS.get(event["kind"])
        if words is not None:
            by = event.get("by") or "anyone"
            who = "somebody" if by == "anyone" else by
            found.append(f"{who} {words} after {event['seconds']:.0f} s ({event['reason']})")
    return "; ".join(found)


_REQUESTS = {
    "rollout.paused": "paused it",
    "rollout.resumed": "let it go on",
    "rollout.approved": "approved the next step",
    "rollout.promote_requested": "waived its hold times",
    "rollout.abort_requested": "asked for it to end",
}

_VERDICTS = {
    "pass": "passes",
    "fail": "fails",
    "inconclusive": "cannot tell yet",
    "error": "could not be judged",
}
