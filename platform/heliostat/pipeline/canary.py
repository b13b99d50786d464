"""Replay recorded examples against the gateway while a candidate earns its traffic."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from heliostat.control.client import ControlClient
from heliostat.errors import GateRefused, HeliostatError
from heliostat.pipeline.progress import Reporter
from heliostat.pipeline.recipe import PipelineRecipe
from heliostat.pipeline.replay import Example, replay
from heliostat.pipeline.world import LateLabel, ReplayedWorld
from heliostat.rollout.plan import RolloutPlan
from heliostat.serving.client import Answer, InferenceClient, Key

if TYPE_CHECKING:
    import polars as pl

START_LIMIT_S = 90.0
"""Longest wait until the candidate has started and takes its first share."""

DECISION_LIMIT_S = 60.0
"""Longest wait for the verdict after the last request."""

ENDED = frozenset({"promoted", "rolled_back", "aborted"})


@dataclass(frozen=True, kw_only=True, slots=True)
class CanaryOutcome:
    """What a replay showed."""

    rollout: dict[str, Any]
    """The controller's own account: state, gates, events."""

    answers: tuple[Answer, ...]
    seconds: float

    @property
    def failed(self) -> tuple[Answer, ...]:
        """Requests whose first attempt was not answered with 200 in time."""
        return tuple(answer for answer in self.answers if answer.problem is not None)

    @property
    def requests_by_version(self) -> dict[str, int]:
        """Answered requests, by the version that answered."""
        return dict(Counter(answer.version for answer in self.answers if answer.version))


def examples(recipe: PipelineRecipe, rows: pl.DataFrame) -> list[Example]:
    """Turn rows of the examples table into requests, in order of prediction time.

    Args:
        recipe: Says which columns are id, time, and what a request carries.
        rows: Examples of the replay's period.
    """
    import polars.selectors as cs

    spec, names = recipe.examples, recipe.asked
    ordered = rows.sort(spec.time, spec.id).with_columns(cs.float().fill_nan(None))
    columns: dict[str, list[Key]] = {name: ordered[name].to_list() for name in names}
    once = [
        Example(
            id=str(row_id), at=at, values={name: columns[name][index] for name in names},
            row=str(row_id),
        )
        for index, (row_id, at) in enumerate(
            zip(ordered[spec.id].to_list(), ordered[spec.time].to_list(), strict=True)
        )
    ]  # fmt: skip
    again = [
        dataclasses.replace(example, id=f"{example.id}~{number}")
        for number in range(2, recipe.replay.rounds + 1)
        for example in once
    ]
    return once + again


def run(
    recipe: PipelineRecipe,
    *,
    plan: RolloutPlan,
    given: Sequence[Example],
    publish: Callable[[datetime], int],
    labels: Sequence[LateLabel],
    request_prefix: str,
    control: ControlClient,
    endpoint: str,
    reporter: Reporter,
) -> CanaryOutcome:
    """Start the rollout, replay everything, and wait for its verdict.

    The replay goes on to its end whatever the verdict is. Request ids are `request_prefix`
    and the example's id; `labels` must use the same.

    Raises:
        HeliostatError: The candidate does not start, or no verdict comes.
    """
    rollout_id = control.start(plan.to_dict())
    try:
        _wait_for_traffic(control, rollout_id, reporter)
        outcome = asyncio.run(
            _replay(
                recipe, given, publish, labels, request_prefix, control, endpoint, reporter,
                rollout_id,
            )
        )  # fmt: skip
        rollout = _wait_for_verdict(control, rollout_id)
    except BaseException:
        # Also after Ctrl-C: no candidate keeps traffic that nobody watches.
        control.abort(rollout_id)
        raise
    return dataclasses.replace(outcome, rollout=rollout)


async def _replay(
    recipe: PipelineRecipe,
    given: Sequence[Example],
    publish: Callable[[datetime], int],
    labels: Sequence[LateLabel],
    request_prefix: str,
    control: ControlClient,
    endpoint: str,
    reporter: Reporter,
    rollout_id: str,
) -> CanaryOutcome:
    world = ReplayedWorld(publish=publish, labels=labels, report_labels=control.label)
    settings = recipe.replay
    seen = Counter[str]()
    watch = _Watch(control, rollout_id, reporter)

    def answered(answers: Sequence[Answer]) -> None:
        for answer in answers:
            seen["sent"] += 1
            seen["failed"] += answer.problem is not None
        reporter.progress(
            "canary", seen["sent"], len(given),
            f"{seen['sent']:,} requests, {seen['failed']} failed; {watch.text}",
        )  # fmt: skip

    began = time.monotonic()
    watching = asyncio.create_task(watch.follow())
    try:
        async with InferenceClient(endpoint, deadline_s=settings.deadline_s) as client:
            answers = await replay(
                given,
                ask=lambda example: client.infer(
                    recipe.model,
                    example.values,
                    request_id=request_prefix + example.id,
                    unit=example.id,
                    at=example.at,
                ),
                world=world,
                every=settings.publish_every,
                requests_per_s=settings.requests_per_s,
                answered=answered,
            )
        seconds = time.monotonic() - began
        await world.finish()
    finally:
        watching.cancel()
    return CanaryOutcome(
        rollout={},
        answers=tuple(_late(answer, settings.deadline_s) for answer in answers),
        seconds=seconds,
    )


def _late(answer: Answer, deadline_s: float) -> Answer:
    """Count an answer that came after its deadline as failed."""
    if answer.problem is None and answer.latency_s > deadline_s:
        return dataclasses.replace(answer, problem=f"answered after {answer.latency_s:.3f} s")
    return answer


class _Watch:
    """Prints each event of the rollout once, as it happens."""

    def __init__(self, control: ControlClient, rollout_id: str, reporter: Reporter) -> None:
        self._control = control
        self._rollout_id = rollout_id
        self._reporter = reporter
        self._num_shown = 0
        self.text = "rollout starting"

    async def follow(self) -> None:
        while True:
            self._show(await asyncio.to_thread(self._control.rollout, self._rollout_id))
            await asyncio.sleep(1.0)

    def _show(self, rollout: dict[str, Any]) -> None:
        events = rollout.get("events", [])
        for event in events[self._num_shown :]:
            self._reporter.line("canary", describe_event(event))
        self._num_shown = len(events)
        self.text = f"candidate at {rollout.get('share_percent', 0):g} %, {rollout['state']}"


def describe_event(event: dict[str, Any]) -> str:
    """Say one event of a rollout in words."""
    reason = event.get("reason")
    return f"{event['kind']}: {reason}" if reason else str(event["kind"])


def _wait_for_traffic(control: ControlClient, rollout_id: str, reporter: Reporter) -> None:
    began = time.monotonic()
    while time.monotonic() - began < START_LIMIT_S:
        rollout = control.rollout(rollout_id)
        if rollout["state"] in ENDED:
            raise HeliostatError(f"rollout {rollout_id} ended before it began: {_last(rollout)}")
        if rollout.get("share_percent", 0) > 0:
            return
        waited = time.monotonic() - began
        reporter.progress("canary", 0, None, f"candidate starting, {waited:.0f} s")
        time.sleep(0.25)
    raise HeliostatError(
        f"rollout {rollout_id}: the candidate took no traffic in {START_LIMIT_S} s"
    )


def _wait_for_verdict(control: ControlClient, rollout_id: str) -> dict[str, Any]:
    began = time.monotonic()
    while True:
        rollout = control.rollout(rollout_id)
        if rollout["state"] in ENDED:
            return rollout
        if time.monotonic() - began > DECISION_LIMIT_S:
            waits = rollout.get("waiting_for") or _last(rollout)
            raise GateRefused(
                f"rollout {rollout_id}",
                "its verdict",
                f"still open {DECISION_LIMIT_S:.0f} s after the last request ({waits})",
                "more requests or wider margins",
            )
        time.sleep(0.5)


def _last(rollout: dict[str, Any]) -> str:
    events = rollout.get("events") or [{"kind": "no event"}]
    return describe_event(events[-1])
