"""A clock that stands still until it is told to advance."""

from __future__ import annotations


class Clock:
    """Call it for the time, in seconds since 1970.

    >>> clock = Clock(100.0)
    >>> clock.advance(2.5)
    >>> clock()
    102.5
    """

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now

    def __call__(self) -> float:
        """Tell the time."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds
