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

Columns = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
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
        if asked.row.by_keys and version.features is not None:
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
        if not breaker.allow(now):
            raise VariantFailed("its breaker is open")
        try:
            found = await self._client.score(
                url,
                columns,
                num_rows=asked.num_rows,
                request_id=asked.request_id,
                epoch=asked.served.epoch,
                timeout_s=left_s,
            )
        except HeliostatError:
            was_open = breaker.is_open
            breaker.failed(self._timer())
            if breaker.is_open and not was_open:
                self._meter.set("heliostat_breaker_open", key, 1)
                telemetry.event("breaker.opened", model=policy.model, version=version)
            raise
        if breaker.is_open:
            self._meter.set("heliostat_breaker_open", key, 0)
        breaker.succeeded()
        if found.own_ms is None:
            return found.scores, 0.0
        hop = self._hops.get(url)
        if hop is None:
            hop = self._hops[url] = Hop()
        ended = self._timer()
        return found.scores, hop.least_ms(ended, (ended - now) * 1000, found.own_ms)
