"""The online features of one service as a gateway reads them: in time, or their defaults."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from heliostat import telemetry
from heliostat.config import require
from heliostat.errors import ConfigError
from heliostat.features.on_demand import completed, transforms
from heliostat.registry.package import FeatureServiceReference
from heliostat.serving.breaker import Breaker
from heliostat.serving.deadline import Deadline
from heliostat.serving.refused import Refused

Keys = Mapping[str, Sequence[Any]]
Values = dict[str, list[Any]]


class FeatureReader(Protocol):
    """Reads online features; `heliostat.features.online.OnlineReader` is one.

    A reader of a server also has ``async fetch``, with the arguments and the answer of `read`,
    and maybe ``drop``, which gives up a connection that does not answer. One that is not ours
    says so by ``kind``.
    """

    def read(self, keys: Keys, at: datetime | None) -> Values:
        """Return feature name to one value per row, None where it is missing."""
        ...


OpenReader = Callable[[FeatureServiceReference], FeatureReader]


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long a request waits for features, and when they are not asked for any more."""

    deadline_s: float = 0.025
    """A read that takes longer counts as a failure."""

    failures: int = 5
    """Failures in a row after which the store is left alone."""

    open_s: float = 1.0
    """For how long; then one request at a time tries again."""

    max_ongoing: int = 1024
    """Reads under way at any time; what comes beyond gets defaults."""

    def __post_init__(self) -> None:
        for name in ("deadline_s", "failures", "open_s", "max_ongoing"):
            value = getattr(self, name)
            require(value > 0, f"features.{name}", value, "must be above 0")


class Features:
    """The online features of one feature service, opened when they are first read."""

    def __init__(
        self,
        reference: FeatureServiceReference,
        open_reader: OpenReader,
        *,
        patience: Patience | None = None,
        timer: Callable[[], float],
    ) -> None:
        self.reference = reference
        self.keys = reference.keys
        """What a request must carry; named once, since each request wants to know."""

        self._open_reader = open_reader
        self._reader: FeatureReader | None = None
        self._is_remote = False
        self._kind = "heliostat"
        self._patience = patience or Patience()
        self._breaker = Breaker(
            failures=self._patience.failures,
            open_s=self._patience.open_s,
            max_ongoing=self._patience.max_ongoing,
        )
        self._timer = timer
        self._told_open = False
        # Compiled with the version, so that a text that may not run never serves.
        self._transforms = transforms(reference.on_demand)

    def completed(self, values: Values, given: Keys) -> Values:
        """Add the on-demand features to what was read, from it and from the request.

        Raises:
            ConfigError: One of them cannot be computed.
        """
        return completed(self._transforms, values, given) if self._transforms else values

    @property
    def reader(self) -> str | None:
        """Whose reader it is: ``heliostat``, or ``feast`` where a type is one that only Feast's
        decodes; None while the store cannot be opened.
        """
        try:
            self._opened()
        except Refused:
            return None
        return self._kind

    @property
    def is_remote(self) -> bool:
        """Whether `fetch` can be asked; opens the reader.

        Raises:
            Refused: 503; the store cannot be opened.
        """
        self._opened()
        return self._is_remote

    def read(self, keys: Keys, at: datetime | None) -> Values:
        """Read one row of features per key, at once: from a store on this machine's disk.

        Raises:
            Refused: 503; the online store cannot be read now; 400: the keys cannot be looked up.
        """
        reader = self._opened()
        try:
            return reader.read(keys, at)
        except ConfigError as error:
            raise Refused(400, str(error)) from error
        except Exception as error:
            # Whatever goes wrong in the store, the client is not at fault and may come again.
            self._reader = None
            raise _unreadable(error) from error

    async def fetch(self, keys: Keys, at: datetime | None) -> tuple[Values, bool]:
        """Read from a server: one row of features per key, and whether they are defaults.

        Returns:
            What the store holds; or, where every view declares defaults, those, if the store
            fails, takes too long, or has been failing.

        Raises:
            Refused: 503; the store does not answer and there are no defaults; 400: the keys
                cannot be looked up.
        """
        began = self._timer()
        if not self._breaker.allow(began):
            self._tell()
            return self._defaults(keys, None), True
        try:
            with Deadline(self._patience.deadline_s):
                values = await self._opened().fetch(keys, at)  # type: ignore[attr-defined]
        except asyncio.CancelledError:
            self._breaker.gave_up()
            raise
        except ConfigError as error:
            self._breaker.gave_up()
            raise Refused(400, str(error)) from error
        except Exception as error:  # noqa: BLE001 - see `read`
            self._breaker.failed(self._timer())
            self._tell()
            return self._defaults(keys, error), True
        now = self._timer()
        self._breaker.succeeded(now, now - began)
        if self._told_open:
            self._tell()
        return values, False

    def _opened(self) -> FeatureReader:
        if self._reader is None:
            try:
                self._reader = self._open_reader(self.reference)
            except Exception as error:
                raise _unreadable(error) from error
            # Asked once: each request wants to know.
            self._is_remote = inspect.iscoroutinefunction(getattr(self._reader, "fetch", None))
            self._kind = str(getattr(self._reader, "kind", "heliostat"))
        return self._reader

    def _tell(self) -> None:
        """Log a change of the breaker; a connection that failed so long is given up."""
        if self._breaker.is_open == self._told_open:
            return
        self._told_open = self._breaker.is_open
        telemetry.event("features.breaker", service=self.reference.name, is_open=self._told_open)
        drop = getattr(self._reader, "drop", None)
        if self._told_open and drop is not None:
            drop()

    def _defaults(self, keys: Keys, error: Exception | None) -> Values:
        views = self.reference.views
        if any(view.defaults is None for view in views):
            raise _unreadable(error or TimeoutError("the store has been failing")) from error
        rows = len(keys[views[0].keys[0]])
        found: Values = {}
        for view in views:
            declared = dict(view.defaults or ())
            found.update({name: [declared.get(name)] * rows for name in view.features})
        return found


def _unreadable(error: Exception) -> Refused:
    telemetry.event("features.unreadable", problem=repr(error)[:300])
    return Refused(503, "features: the online store cannot be read now", retry_after_s=1)
