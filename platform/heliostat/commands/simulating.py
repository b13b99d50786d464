"""`heliostat rollout simulate`: what a plan would have done, before it is let loose."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from heliostat.commands.place import AsJson, say

_TRAFFIC = "Made-up traffic"
_RECORDED = "Recorded traffic"
_EFFECT = "The candidate"


def simulate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The plan as JSON.")],
    *,
    exposures: Annotated[
        Path | None, typer.Option(help="Replay what gateways wrote into this folder.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="True outcomes of recorded requests, as JSON lines.")
    ] = None,
    requests_per_s: Annotated[
        float, typer.Option(help="Made-up traffic, if not recorded.")
    ] = 100.0,
    seconds: Annotated[int, typer.Option(help="Length of made-up traffic.")] = 1_800,
    error_ratio: Annotated[float, typer.Option(help="Errors of stable, made up.")] = 0.005,
    latency_ms: Annotated[float, typer.Option(help="Median answer time, made up.")] = 10.0,
    more_errors: Annotated[float, typer.Option(help="Errors of the candidate beyond those.")] = 0.0,
    times_slower: Annotated[float, typer.Option(help="Factor on the candidate's times.")] = 1.0,
    noise: Annotated[float, typer.Option(help="Noise on the candidate's logits, deviation.")] = 0.0,
    runs: Annotated[int, typer.Option(min=1, help="So many times, each with other units.")] = 1,
    seed: Annotated[int, typer.Option(help="The same seed gives the same runs.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Play a plan on recorded or made-up traffic: would it promote or roll back, when, at what cost.

    Without an effect on the candidate, many runs tell how often an equal one is rolled back.
    """
    from heliostat.commands.rollouts import read_plan
    from heliostat.control import recorded
    from heliostat.rollout import simulated

    plan = read_plan(file)
    effects = simulated.Effects(
        error_ratio_more=more_errors, latency_factor=times_slower, noise=noise
    )
    recording, left_out = None, None
    if exposures is not None:
        known = None if labels is None else recorded.read_labels(labels)
        recording = recorded.read(exposures, plan.model, known)
        if plan.loss is not None and recording.num_labelled == 0:
            plan, left_out = _without_loss(plan), "loss"
    played = []
    for number in range(seed, seed + runs):
        if recording is not None:
            traffic: Any = recording.replay(effects, number)
        else:
            stable = simulated.Version(error_ratio=error_ratio, latency_ms=latency_ms)
            candidate = simulated.Version(
                error_ratio=min(1.0, error_ratio + more_errors),
                latency_ms=latency_ms * times_slower,
                noise=(stable.noise**2 + noise**2) ** 0.5,
            )
            traffic = simulated.synthetic(
                stable, candidate, requests_per_s=requests_per_s, seconds=seconds, seed=number
            )
        played.append(simulated.play(plan, traffic, salt=f"run-{number}"))
    if as_json:
        told = {"runs": [item.to_dict() for item in played], "left_out": left_out}
        typer.echo(json.dumps(told, indent=2))
        return
    if left_out:
        say("The recording has no labels, so the loss gate was left out.")
    for line in _words(played):
        say(line)


def _without_loss(plan: Any) -> Any:
    import dataclasses

    return dataclasses.replace(plan, loss=None, optional=tuple(set(plan.optional) - {"loss"}))


def _words(played: list[Any]) -> list[str]:
    if len(played) == 1:
        (one,) = played
        steps = ", ".join(f"{percent:g} % after {at:.0f} s" for at, percent in one.steps)
        return [
            f"{one.outcome.replace('_', ' ')} after {one.seconds:.0f} s: {one.because}",
            f"It came to {steps}." if steps else "It never had traffic.",
            (
                f"{one.affected_units:,} units were given to the candidate, "
                f"{one.affected_requests:,} requests; it failed {one.candidate_errors:,} of them, "
                "which stable answered."
            ),
        ]
    from heliostat.stats import proportions

    counts, number = Counter(item.outcome for item in played), len(played)
    lines = [f"{number} runs: " + ", ".join(f"{n} {word}" for word, n in counts.most_common())]
    low, high = proportions.exact(counts["rolled_back"], number, 0.01)
    lines.append(
        f"rolled back: {counts['rolled_back'] / number:.2%}, between {low:.2%} and {high:.2%} (99 %)"
    )
    ended = sorted(item.seconds for item in played)
    units = sorted(item.affected_units for item in played)
    lines.append(
        f"in the median after {ended[number // 2]:.0f} s, with {units[number // 2]:,} units affected"
    )
    return lines
