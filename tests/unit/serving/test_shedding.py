"""Work is refused while the loop does not turn, and never otherwise."""

from __future__ import annotations

import asyncio
import time

from heliostat.serving.shedding import Shedder


class Work:
    """Processor seconds that a test says were used."""

    def __init__(self) -> None:
        self.used_s = 0.0

    def __call__(self) -> float:
        return self.used_s


def test_work_of_one_turn_beyond_the_limit_is_refused_at_once() -> None:
    """Forty pieces of 5 ms are ready together; the limit of 50 ms lets eleven through."""
    work = Work()
    shedder = Shedder(limit_s=0.05, work_s=work)
    done = []

    async def piece() -> None:
        done.append(not shedder.is_busy())
        work.used_s += 0.005 if done[-1] else 0.0

    async def story() -> None:
        await asyncio.gather(*(piece() for _ in range(40)))

    asyncio.run(story())

    assert done == [True] * 11 + [False] * 29
    assert shedder.num_refused == 29


def test_work_that_comes_one_by_one_is_never_refused() -> None:
    """Much more than the limit in all, but the loop turns between; nor after a long pause."""
    work = Work()
    shedder = Shedder(limit_s=0.05, work_s=work)

    async def story() -> list[bool]:
        found = []
        for _ in range(10):
            found.append(shedder.is_busy())
            work.used_s += 0.04
            await asyncio.sleep(0.03)
        await asyncio.sleep(0.2)
        return [*found, shedder.is_busy()]

    assert asyncio.run(story()) == [False] * 11


def test_a_process_that_was_stopped_refuses_nobody() -> None:
    """The clock goes on while it stands still; its processor time does not."""
    shedder = Shedder(limit_s=0.01)

    async def story() -> list[bool]:
        found = [shedder.is_busy()]
        time.sleep(0.1)  # noqa: ASYNC251 - it stands for a process that does not run
        return [*found, shedder.is_busy()]

    assert asyncio.run(story()) == [False, False]


def test_an_idle_process_has_no_timer() -> None:
    """A gateway that nobody asks wakes nobody up."""

    async def story() -> object:
        shedder = Shedder(limit_s=0.01)
        shedder.is_busy()
        await asyncio.sleep(0.05)
        return shedder._ticks_in

    assert asyncio.run(story()) is None
