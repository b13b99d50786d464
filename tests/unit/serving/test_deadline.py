from __future__ import annotations

import asyncio

import pytest

from heliostat.serving.deadline import Deadline


def test_what_takes_too_long_is_ended_and_its_task_goes_on() -> None:
    """The wait ends by `TimeoutError`; afterwards the task waits for other things as ever."""

    async def story() -> str:
        with pytest.raises(TimeoutError), Deadline(0.01):
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        return f"{task.cancelling()} cancellations left"

    assert asyncio.run(story()) == "0 cancellations left"


def test_what_comes_in_time_is_left_alone() -> None:
    """Nothing ends the task later on."""

    async def story() -> int:
        with Deadline(0.01):
            await asyncio.sleep(0)
        await asyncio.sleep(0.03)
        return 7

    assert asyncio.run(story()) == 7


@pytest.mark.parametrize("after_s", [0.0, 0.01])
def test_who_cancels_the_task_is_obeyed(after_s: float) -> None:
    """Also at the moment at which the time is over."""

    async def wait() -> None:
        with Deadline(0.01):
            await asyncio.Event().wait()

    async def story() -> bool:
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        if after_s:
            asyncio.get_running_loop().call_later(after_s, task.cancel)
        else:
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return True
        except TimeoutError:
            return after_s > 0  # it was over just before
        return False

    assert asyncio.run(story())


def test_another_error_passes() -> None:
    """As it is."""

    async def story() -> None:
        with Deadline(10.0):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(story())
