"""Gets scores from a variant: in this process, or over loopback with deadline and breaker."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heliostat import telemetry
from heliostat.errors import HeliostatError
from heliostat.serving.breaker import Breaker
from heliostat.serving.forward import Hop, VariantClient, VariantFailed
from heliostat.serving.metrics import Meter
from heliostat.serving.residence import Residents
from heliostat.serving.versions import LoadedVersion, Row, ServedModel

THREAD_ROWS = 512
"""Batches from this size on are scored in a thread, so that others are answered meanwhile."""

_FALLBACK_RESERVE = 0.1
"""Share of the deadline kept for the stable version, should the candidate not answer."""

_TRIAL_S = 0.5

Columns = Mapping[str, Sequence[Any]]


@dataclass(slots=True)  # not frozen: that costs a microsecond per request
class Asked:
    """One request, read and bound to its model."""

    served: ServedModel
    row: Row
    num_rows: int
    request_id: str
    unit: str

    only_index: int | None
    """Asks for this variant: no split, no fallback, no evidence."""

    started: float
    """When the request came, by the timer."""

    form: str = "json"
    """How to answer: ``json``, ``binary``, or ``invocations`` as MLflow does."""


class Scorer:
    """Scores in this process; loads what was put away."""

    def __init__(self, residents: Residents) -> None:
        self._residents = residents

    async def score(
        self, version: LoadedVersion | None, columns: Columns, num_rows: int
    ) -> list[float]:
        """Score rows.

        Raises:
            VariantFailed: The version cannot be used here, or a score is not finite.
            ConfigError: The columns do not fit.
        """
        if version is None or version.resident is None:
            raise VariantFailed("the version is not loaded in this process")
        resident = version.resident
        predictor = self._residents.get(resident)
        if predictor is None:
            predictor = await self._residents.wait(resident)
        scores: list[float]
        if num_rows >= THREAD_ROWS:
            scores = (await asyncio.to_thread(predictor.predict, columns)).tolist()
        elif (batcher := resident.batcher) is not None:
            scores = await batcher.predict(columns, num_rows)
        else:
            scores = predictor.predict(columns).tolist()
        if not all(map(math.isfinite, scores)):
            raise VariantFailed("a score is not finite")
        return scores


class Variants:
    """Every variant of every model, with a breaker for each isolated one."""

    def __init__(
        self,
        *,
        scorer: Scorer,
        client: VariantClient,
        new_breaker: Callable[[], Breaker],
        meter: Meter,
        timer: Callable[[], float],
    ) -> None:
        self._scorer = scorer
        self._client = client
        self._new_breaker = new_breaker
        self._meter = meter
        self._timer = timer
        self._breakers: dict[tuple[str, str], Breaker] = {}
        self._hops: dict[str, Hop] = {}
        self._waiting: dict[tuple[str, str], set[asyncio.Timeout]] = {}

    async def scores(self, asked: Asked, index: int) -> tuple[list[float], float]:
        """Return the variant's scores, and what of the time went into the way to it, in ms.

        Raises:
            VariantFailed: It did not answer well, or not in time, or its breaker is open.
            Refused: 503; features cannot be read.
            ConfigError: The columns do not fit the version.
        """
        served = asked.served
        version, variant = served.versions[index], served.policy.variants[index]
        if version is None:
            raise VariantFailed("the version cannot be loaded")
        if asked.row.by_keys and version.features is not None and not asked.row.is_fetched:
            began = self._timer()
            columns = asked.row.columns(version)
            self._meter.observe(
                "heliostat_feature_seconds", served.policy_labels, self._timer() - began
            )
        else:
            columns = asked.row.columns(version)
        if variant.url is None:
            return await self._scorer.score(version, columns, asked.num_rows), 0.0
        return await self._forward(asked, variant.version, variant.url, columns)

    def forget(self, known: set[tuple[str, str]]) -> None:
        """Drop the breakers of versions that no policy names any more."""
        for key in [key for key in self._breakers if key not in known]:
            del self._breakers[key]
            self._meter.set("heliostat_breaker_open", key, 0)

    async def _forward(
        self, asked: Asked, version: str, url: str, columns: Columns
    ) -> tuple[list[float], float]:
        policy = asked.served.policy
        key = (policy.model, version)
        breaker = self._breakers.get(key)
        if breaker is None:
            breaker = self._breakers[key] = self._new_breaker()
        now = self._timer()
        left_s = asked.started + policy.deadline_s * (1 - _FALLBACK_RESERVE) - now
        if left_s <= 0:
            raise VariantFailed("no time left before it was asked")
        was_open = breaker.is_open
        waiting = self._waiting.setdefault(key, set())
        if not breaker.allow(now):
            self._tell_state(key, breaker, was_open=was_open)
            raise VariantFailed("its breaker is open, or it has all the work it may have")
        if was_open:
            # A trial: whoever is chosen for it should not wait long in vain.
            left_s = min(left_s, max(_TRIAL_S, breaker.stall_s or 0.0))
        try:
            async with asyncio.timeout(None) as bound:
                waiting.add(bound)
                try:
                    found = await self._client.score(
                        url,
                        columns,
                        num_rows=asked.num_rows,
                        request_id=asked.request_id,
                        epoch=asked.served.epoch,
                        timeout_s=left_s,
                    )
                finally:
                    waiting.discard(bound)
        except TimeoutError as error:
            # Its breaker is open already, and this is no further verdict.
            breaker.gave_up()
            raise VariantFailed("it fell silent") from error
        except HeliostatError:
            breaker.failed(self._timer())
            self._tell_state(key, breaker, was_open=was_open)
            raise
        except asyncio.CancelledError:
            breaker.gave_up()
            raise
        ended = self._timer()
        breaker.succeeded(ended, ended - now)
        self._tell_state(key, breaker, was_open=was_open)
        if found.own_ms is None:
            return found.scores, 0.0
        hop = self._hops.get(url)
        if hop is None:
            hop = self._hops[url] = Hop()
        return found.scores, hop.least_ms(ended, (ended - now) * 1000, found.own_ms)

    def _tell_state(self, key: tuple[str, str], breaker: Breaker, *, was_open: bool) -> None:
        if breaker.is_open == was_open:
            return
        self._meter.set("heliostat_breaker_open", key, float(breaker.is_open))
        if breaker.is_open:
            # It fell silent, or fails: whoever still waits for it is answered by stable now.
            for bound in self._waiting.get(key, ()):
                if not bound.expired():
                    bound.reschedule(asyncio.get_running_loop().time())
        name = "breaker.opened" if breaker.is_open else "breaker.closed"
        telemetry.event(name, model=key[0], version=key[1])
