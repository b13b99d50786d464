"""Carry out work on many files as Ray tasks, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any


class OnRay:
    """Runs each item as a task of the Ray that this process is connected to."""

    def __init__(self, *, max_at_once: int = 64) -> None:
        """Keep at most `max_at_once` tasks submitted, so that memory is bounded."""
        self._max = max_at_once

    def map(self, work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        """Do the work on each item; answers come as they are ready."""
        import ray

        run: Any = ray.remote(_call)
        shared = ray.put(work)
        waiting: list[Any] = []
        for item in items:
            if len(waiting) >= self._max:
                ready, waiting = ray.wait(waiting)
                yield from ray.get(ready)
            waiting.append(run.remote(shared, item))
        while waiting:
            ready, waiting = ray.wait(waiting)
            yield from ray.get(ready)


def _call(work: Callable[[Any], Any], item: Any) -> Any:
    return work(item)
