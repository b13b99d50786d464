"""Send recorded examples as live requests, in time order, while the features advance."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from heliostat.serving.client import Answer, Key


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """One recorded example: what is asked and when its prediction is due."""

    id: str
    """Unlike any other of the replay."""
    at: datetime
    values: dict[str, Key]
    """Entity keys, or all inputs."""
    row: str
    """Name of the recorded row; a replay of several rounds has it once in each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Examples between two publications of features; they may be asked at the same time."""

    opens: datetime
    examples: tuple[Example, ...]


class World(Protocol):
    """What the replay changes besides sending requests."""

    async def advance(self, moment: datetime) -> None:
        """Publish features and labels that were known at the moment; returns when visible."""


Ask = Callable[[Example], Awaitable[Answer]]


def windows(examples: Sequence[Example], every: timedelta) -> Iterator[Window]:
    """Cut examples, given in time order, at whole multiples of `every` since the epoch.

    Windows without examples are left out.

    >>> from datetime import UTC
    >>> at = lambda minute: datetime(2020, 1, 1, 0, minute, tzinfo=UTC)
    >>> given = [Example(id=str(m), at=at(m), values={}, row="") for m in (0, 29, 30, 59)]
    >>> [(w.opens.minute, len(w.examples)) for w in windows(given, timedelta(minutes=30))]
    [(0, 2), (30, 2)]
    """
    every_s = every.total_seconds()
    gathered: list[Example] = []
    opens_s: float | None = None
    for example in examples:
        mark_s = example.at.timestamp() // every_s * every_s
        if opens_s is not None and mark_s != opens_s:
            yield _window(opens_s, gathered)
            gathered = []
        opens_s = mark_s
        gathered.append(example)
    if opens_s is not None:
        yield _window(opens_s, gathered)


def _window(opens_s: float, examples: Sequence[Example]) -> Window:
    zone = examples[0].at.tzinfo
    return Window(opens=datetime.fromtimestamp(opens_s, zone), examples=tuple(examples))


async def replay(
    examples: Sequence[Example],
    *,
    ask: Ask,
    world: World,
    every: timedelta,
    requests_per_s: float,
    answered: Callable[[Sequence[Answer]], None],
) -> list[Answer]:
    """Replay all examples and return one answer each, in the order given.

    Within a window requests leave at fixed intervals, whether or not earlier ones were
    answered; a request's latency counts from when it should have left. Between windows the
    world advances while no request is open, so that each request meets the features of its
    own time.

    Args:
        examples: In order of `at`.
        ask: Sends one request; must not raise and must not retry.
        world: Told the start of each window before its first request.
        every: Length of a window.
        requests_per_s: Rate within a window.
        answered: Told each window's answers.
    """
    answers: list[Answer] = []
    for window in windows(examples, every):
        await world.advance(window.opens)
        began = time.monotonic()
        tasks = [
            asyncio.create_task(_ask_at(began + index / requests_per_s, example, ask))
            for index, example in enumerate(window.examples)
        ]
        got = await asyncio.gather(*tasks)
        answers.extend(got)
        answered(got)
    return answers


async def _ask_at(due: float, example: Example, ask: Ask) -> Answer:
    delay = due - time.monotonic()
    if delay > 0:
        await asyncio.sleep(delay)
    answer = await ask(example)
    return dataclasses.replace(answer, latency_s=time.monotonic() - due)
