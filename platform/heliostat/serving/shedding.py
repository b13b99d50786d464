"""Refuses requests while the process has more work than it can do in time, so that others are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class Shedder:
    """Counts the processor time of one turn of the event loop; beyond a limit work is refused.

    Every request that waits in an overloaded process makes all others later, and none sooner. A
    loop that has worked for longer than the limit refuses what else is ready in this turn: a
    refusal costs microseconds, an answer of a large model milliseconds. Processor time, not the
    clock's: a process that was stopped, or a machine that is busy with others, refuses nobody.
    Idle, it has no timer.
    """

    def __init__(self, *, limit_s: float, work_s: Callable[[], float] = time.thread_time) -> None:
        """Take the limit; nothing is watched before the first request.

        Args:
            limit_s: Processor seconds in one turn.
            work_s: Processor seconds of this thread so far.
        """
        self._limit_s = limit_s
        self._work_s = work_s
        self._turned_at = 0.0
        self._ticks_in: asyncio.AbstractEventLoop | None = None
        self._is_used = False
        self.num_refused = 0

    def is_busy(self) -> bool:
        """Say whether a request that begins now must be refused; call it once for each."""
        loop = asyncio.get_running_loop()
        now = self._work_s()
        self._is_used = True
        if self._ticks_in is not loop:
            self._ticks_in, self._turned_at = loop, now
            loop.call_later(self._limit_s / 5, self._tick)
            return False
        if now - self._turned_at <= self._limit_s:
            return False
        self.num_refused += 1
        return True

    def _tick(self) -> None:
        loop = self._ticks_in
        assert loop is not None
        self._turned_at = self._work_s()
        if self._is_used:
            self._is_used = False
            loop.call_later(self._limit_s / 5, self._tick)
        else:
            self._ticks_in = None
