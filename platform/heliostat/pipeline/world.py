"""The replayed world: features and labels that become known as its clock advances."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class LateLabel:
    """The label of a request, and when it was known."""

    known_at: datetime
    request_id: str
    label: float


class ReplayedWorld:
    """Publishes what each moment reveals; labels follow without holding up the features."""

    def __init__(
        self,
        *,
        publish: Callable[[datetime], int],
        labels: Sequence[LateLabel],
        report_labels: Callable[[Sequence[tuple[str, float]]], None],
    ) -> None:
        """Prepare a world whose clock stands before all of it.

        Args:
            publish: Makes every feature known at a moment visible online and returns how many
                entities changed; blocking, called in a thread.
            labels: In any order.
            report_labels: Sends labels by request id; blocking, called in a thread.
        """
        self._publish = publish
        self._labels = sorted(labels, key=lambda item: item.known_at)
        self._known_at = [item.known_at for item in self._labels]
        self._report_labels = report_labels
        self._num_reported = 0
        self._sending: asyncio.Task[None] | None = None
        self.num_published = 0

    async def advance(self, moment: datetime) -> None:
        """Publish all features known at the moment; return when they are visible."""
        self.num_published += await asyncio.to_thread(self._publish, moment)
        if self._sending is None or self._sending.done():
            if self._sending is not None:
                self._sending.result()
            self._sending = asyncio.create_task(self._send_labels(moment))

    async def finish(self) -> None:
        """Report all labels that are still to come, whenever they were known."""
        if self._sending is not None:
            await self._sending
        if self._labels:
            await self._send_labels(self._known_at[-1])

    async def _send_labels(self, moment: datetime) -> None:
        upto = bisect_right(self._known_at, moment)
        due = self._labels[self._num_reported : upto]
        if due:
            await asyncio.to_thread(
                self._report_labels, [(item.request_id, item.label) for item in due]
            )
            self._num_reported = upto
