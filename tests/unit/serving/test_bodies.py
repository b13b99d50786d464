"""Bodies that come late, piece by piece or never."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from heliostat.serving import asgi
from heliostat.serving.refused import Refused


def test_a_body_that_never_ends_is_given_up() -> None:
    """The client is told which limit it missed."""

    async def receive() -> Any:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"", "more_body": True}

    async def story() -> None:
        await asgi.read_body(receive, {}, max_bytes=10, timeout_s=0.05)

    with pytest.raises(Refused) as caught:
        asyncio.run(story())

    assert (caught.value.status, caught.value.message) == (
        408,
        "body: must be complete within 0.05 s",
    )


def test_late_bodies_share_one_timer_and_nobody_else_is_cut() -> None:
    """A silent client and a dripping one get 408; a whole body beside them is read."""
    bodies = asgi.Bodies(max_bytes=10, timeout_s=0.05)

    async def silent() -> Any:
        await asyncio.Event().wait()

    async def dripping() -> Any:
        await asyncio.sleep(0.001)
        return {"type": "http.request", "body": b"", "more_body": True}

    async def whole() -> Any:
        return {"type": "http.request", "body": b"abc"}

    async def read(receive: Any) -> Any:
        try:
            return await bodies.read(receive, {})
        except Refused as refused:
            return refused.status

    async def story() -> Any:
        return await asyncio.gather(*map(read, (silent, dripping, whole, silent)))

    assert asyncio.run(story()) == [408, 408, b"abc", 408]


def test_a_request_that_is_cancelled_while_its_body_is_read_stays_cancelled() -> None:
    """The server's own cancellation is not taken for a late body."""
    bodies = asgi.Bodies(max_bytes=10, timeout_s=5.0)

    async def silent() -> Any:
        await asyncio.Event().wait()

    async def story() -> None:
        task = asyncio.create_task(bodies.read(silent, {}))
        await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(story())
