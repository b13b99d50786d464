"""A replay keeps the order of time, its rate, and one attempt per request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from heliostat.pipeline.replay import Example, replay
from heliostat.pipeline.world import LateLabel, ReplayedWorld
from heliostat.serving.client import Answer

START = datetime(2020, 1, 1, tzinfo=UTC)
HALF_HOUR = timedelta(minutes=30)


def _example(minute: int) -> Example:
    name = f"at-{minute}"
    at = START + timedelta(minutes=minute)
    return Example(id=name, at=at, values={"who": minute}, row=name)


def _answer(example: Example) -> Answer:
    return Answer(
        request_id=example.id, status=200, scores=(0.5,), version="1", variant="stable", epoch=1,
        fallback=False, latency_s=0.0,
    )  # fmt: skip


class _Log:
    """A world and a server that write down what happens."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def advance(self, moment: datetime) -> None:
        self.seen.append(f"publish {moment:%H:%M}")

    async def ask(self, example: Example) -> Answer:
        self.seen.append(f"ask {example.id}")
        await asyncio.sleep(0)
        self.seen.append(f"answered {example.id}")
        return _answer(example)


def test_features_advance_only_while_nothing_is_in_flight() -> None:
    """A request never meets features of a later window, nor of an earlier one."""
    log = _Log()

    answers = asyncio.run(
        replay(
            [_example(5), _example(31)],
            ask=log.ask,
            world=log,
            every=HALF_HOUR,
            requests_per_s=1000.0,
            answered=lambda _: None,
        )
    )

    assert [answer.request_id for answer in answers] == ["at-5", "at-31"]
    assert log.seen == [
        "publish 00:00", "ask at-5", "answered at-5",
        "publish 00:30", "ask at-31", "answered at-31",
    ]  # fmt: skip


def test_latency_counts_from_when_the_request_should_have_left() -> None:
    """A server that stalls is charged for the requests that had to wait behind it."""

    async def stalled(example: Example) -> Answer:
        await asyncio.sleep(0.05)
        return _answer(example)

    answers = asyncio.run(
        replay(
            [_example(0), _example(1)],
            ask=stalled,
            world=_Log(),
            every=HALF_HOUR,
            requests_per_s=1e6,
            answered=lambda _: None,
        )
    )

    assert all(answer.latency_s >= 0.05 for answer in answers)


def test_every_label_is_reported_once_and_never_before_it_was_known() -> None:
    """Late labels follow the replayed clock; what is left over comes at the end."""
    published: list[datetime] = []
    reported: list[tuple[datetime, list[tuple[str, float]]]] = []
    clock = [START]

    def report(labels: Sequence[tuple[str, float]]) -> None:
        reported.append((clock[0], list(labels)))

    world = ReplayedWorld(
        publish=lambda moment: published.append(moment) or 1,  # type: ignore[func-returns-value]
        labels=[
            LateLabel(known_at=START + timedelta(hours=hour), request_id=f"r{hour}", label=1.0)
            for hour in (2, 1, 9)
        ],
        report_labels=report,
    )

    async def run() -> None:
        for hour in (0, 1, 2):
            clock[0] = START + timedelta(hours=hour)
            await world.advance(clock[0])
            await asyncio.sleep(0.05)
        clock[0] = START + timedelta(hours=10)
        await world.finish()

    asyncio.run(run())

    assert published == [START + timedelta(hours=hour) for hour in (0, 1, 2)]
    assert [item for _, labels in reported for item in labels] == [
        ("r1", 1.0), ("r2", 1.0), ("r9", 1.0),
    ]  # fmt: skip
    assert all(
        START + timedelta(hours=int(request_id[1:])) <= moment
        for moment, labels in reported
        for request_id, _ in labels
    )
    assert world.num_published == 3
