"""How many requests a second each model gets now, from what gateways report."""

from __future__ import annotations

from collections import deque

WINDOW_S = 60.0
LEAST_S = 10.0
"""A shorter time says nothing yet."""


class Rates:
    """Requests of the last minute by model; a report counts when it arrives."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, int]]] = {}

    def add(self, model: str, requests: int, now: float) -> None:
        """Count requests of a report."""
        seen = self._seen.setdefault(model, deque())
        seen.append((now, requests))
        while now - seen[0][0] > WINDOW_S:
            seen.popleft()

    def per_s(self, model: str, now: float) -> float | None:
        """Requests a second; None where too little was seen to say.

        A model that is not asked any more is reported no more: its rate falls to nothing.
        """
        seen = self._seen.get(model)
        if not seen or now - seen[0][0] < LEAST_S:
            return None
        recent = sum(count for at, count in seen if now - at <= WINDOW_S)
        return recent / min(WINDOW_S, now - seen[0][0])
