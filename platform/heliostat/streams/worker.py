"""The Ray actor around a consumer: works when the driver says so, and answers how it stands."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from heliostat import telemetry
from heliostat.data.tables import Catalog
from heliostat.errors import HeliostatError
from heliostat.serving.metrics import RaySink
from heliostat.streams.consumer import Consumer, Progress
from heliostat.streams.recipe import StreamRecipe

if TYPE_CHECKING:
    from heliostat.streams.online import OnlineStore
    from heliostat.streams.scoring import Scorer


class Worker:
    """One consumer in a process of its own."""

    def __init__(
        self,
        recipe: StreamRecipe,
        catalog: Catalog,
        name: str,
        online: OnlineStore | None,
        scorer: Callable[[], Scorer] | None,
    ) -> None:
        """Build the consumer; it connects at its first work."""
        telemetry.configure("stream")
        self._consumer = Consumer(
            recipe,
            catalog,
            name=name,
            online=online,
            scorer=None if scorer is None else scorer(),
        )
        self._sink = RaySink()

    def pid(self) -> int:
        """The process."""
        return os.getpid()

    def work(self, partitions: Sequence[str], for_s: float) -> Progress | HeliostatError:
        """Read for a while; an error that ends the stream is returned, with its type."""
        try:
            found = self._consumer.work(partitions, for_s)
        except HeliostatError as error:
            self.close()
            return error
        self._consumer.meter.drain(self._sink)
        return found

    def close(self) -> Progress | HeliostatError:
        """Commit and let go; a failure loses nothing."""
        try:
            return self._consumer.close()
        except HeliostatError as error:
            return error
