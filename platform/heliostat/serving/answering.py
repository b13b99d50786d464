"""Answers one bound request: split, predict or forward, fall back, record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from heliostat import telemetry
from heliostat.errors import HeliostatError
from heliostat.rollout.policy import Variant
from heliostat.serving import asgi, protocol
from heliostat.serving.breaker import Breaker
from heliostat.serving.evidence import Gatherer
from heliostat.serving.exposures import Spool
from heliostat.serving.forward import VariantClient, VariantFailed
from heliostat.serving.pairs import PairJob, PairScorer, predict
from heliostat.serving.refused import Refused
from heliostat.serving.versions import Row, ServedModel
from heliostat.stats.slots import slot as slot_of

_FALLBACK_RESERVE = 0.1
"""Share of the deadline kept for the stable version, should the candidate not answer."""

_THREAD_ROWS = 512
"""Batches from this size on are scored in a thread, so that others are answered meanwhile."""

Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back."""

    status: int
    body: bytes
    headers: Headers


class Answerer:
    """Knows how to get scores from any variant, and what to note about it."""

    def __init__(
        self,
        *,
        variants: VariantClient,
        gatherer: Gatherer,
        spool: Spool,
        pairs: PairScorer,
        new_breaker: Callable[[], Breaker],
        clock: Callable[[], float],
        timer: Callable[[], float],
    ) -> None:
        self._variants = variants
        self._gatherer = gatherer
        self._spool = spool
        self._pairs = pairs
        self._new_breaker = new_breaker
        self._clock = clock
        self._timer = timer
        self._breakers: dict[tuple[str, str], Breaker] = {}

    async def answer(
        self,
        served: ServedModel,
        row: Row,
        *,
        num_rows: int,
        request_id: str,
        unit: str,
        only_index: int | None,
        started: float,
        binary: bool = False,
    ) -> Answer:
        """Answer with the variant that the unit's slot names, or with the stable one instead.

        Args:
            only_index: Asks for this variant: no split, no fallback, no evidence.
            started: When the request came, by the timer.
            binary: Whether the client wants raw values.

        Raises:
            Refused: 500 or 503; no version that may answer could.
        """
        policy = served.policy
        slot = slot_of(unit, policy.model)
        index = policy.slots[slot] if only_index is None else only_index
        assigned = policy.variants[index]
        answered_by, scores, problem = index, None, None
        try:
            scores = await self._scores(served, index, row, num_rows, request_id, started)
        except Refused:
            raise
        except Exception as error:  # noqa: BLE001
            problem = error
            telemetry.event(
                "variant.failed",
                model=policy.model, version=assigned.version, request_id=request_id,
                problem=str(error)[:300],
            )  # fmt: skip
        own_ms = None if problem is not None else (self._timer() - started) * 1000
        if problem is not None and index != 0 and only_index is None:
            answered_by = 0
            try:
                scores = await self._scores(served, 0, row, num_rows, request_id, started)
            except Refused:
                raise
            except Exception as error:  # noqa: BLE001
                telemetry.event("fallback.failed", model=policy.model, problem=str(error)[:300])
        latency_ms = (self._timer() - started) * 1000
        if only_index is None:
            late = own_ms is not None and own_ms > policy.deadline_s * 1000
            self._gatherer.count(
                policy,
                served.epoch,
                assigned.version,
                unit=unit,
                latency_ms=own_ms,
                failed=problem is not None or late,
            )
        variant = policy.variants[answered_by]
        fallback = answered_by != index
        status = 200 if scores is not None else 500 if answered_by == 0 else 503
        loaded = served.versions[answered_by]
        self._spool.add(
            {
                "request_id": request_id,
                "ts": self._clock(),
                "model": policy.model,
                "version": variant.version,
                "variant": variant.role,
                "epoch": served.epoch,
                "unit": unit,
                "slot": slot if only_index is None else None,
                "fallback": fallback,
                "status": status,
                "latency_ms": round(latency_ms, 3),
                "rows": num_rows,
                "keys": _plain(row.given if row.by_keys else {}, num_rows),
                "features": _plain(row.features(loaded) if loaded else {}, num_rows),
                "scores": scores or [],
            }
        )
        headers = _headers(request_id, variant, served.epoch, fallback)
        if scores is None:
            message = f"version {variant.version} could not answer; see the gateway's log"
            return Answer(status, protocol.error(message), [asgi.JSON, *headers])
        if only_index is None and policy.paired:
            self._pair(served, row, num_rows, request_id, answered_by, scores)
        parts: dict[str, Any] = {
            "model": policy.model,
            "version": variant.version,
            "request_id": request_id,
            "output": served.stable.description.output,
            "scores": scores,
        }
        if not binary:
            return Answer(200, protocol.answer(**parts), [asgi.JSON, *headers])
        body, head_bytes = protocol.binary_answer(**parts)
        length = (b"inference-header-content-length", b"%d" % head_bytes)
        return Answer(200, body, [asgi.BINARY, length, *headers])

    async def _scores(
        self,
        served: ServedModel,
        index: int,
        row: Row,
        num_rows: int,
        request_id: str,
        started: float,
    ) -> list[float]:
        version, variant = served.versions[index], served.policy.variants[index]
        if version is None:
            raise VariantFailed("the version cannot be loaded")
        columns = row.columns(version)
        if variant.url is None:
            if num_rows < _THREAD_ROWS:
                return predict(version, columns)
            return await asyncio.to_thread(predict, version, columns)
        policy = served.policy
        breaker = self._breakers.get((policy.model, variant.version))
        if breaker is None:
            breaker = self._breakers[policy.model, variant.version] = self._new_breaker()
        now = self._timer()
        left_s = started + policy.deadline_s * (1 - _FALLBACK_RESERVE) - now
        if left_s <= 0:
            raise VariantFailed("no time left before it was asked")
        if not breaker.allow(now):
            raise VariantFailed("its breaker is open")
        try:
            scores = await self._variants.score(
                variant.url,
                columns,
                num_rows=num_rows,
                request_id=request_id,
                epoch=served.epoch,
                timeout_s=left_s,
            )
        except HeliostatError:
            was_open = breaker.is_open
            breaker.failed(self._timer())
            if breaker.is_open and not was_open:
                telemetry.event("breaker.opened", model=policy.model, version=variant.version)
            raise
        breaker.succeeded()
        return scores

    def _pair(
        self,
        served: ServedModel,
        row: Row,
        num_rows: int,
        request_id: str,
        answered_by: int,
        scores: list[float],
    ) -> None:
        for index, variant in enumerate(served.policy.variants):
            version = served.versions[index]
            if variant.role != "candidate" or version is None:
                continue
            try:
                columns = row.columns(version)
            except (KeyError, Refused):
                continue
            self._pairs.add(
                PairJob(
                    request_id=request_id,
                    served=served,
                    candidate_index=index,
                    num_rows=num_rows,
                    stable_columns=row.columns(served.stable),
                    candidate_columns=columns,
                    stable_scores=scores if answered_by == 0 else None,
                    candidate_scores=scores if answered_by == index else None,
                )
            )
            return


def _plain(columns: Mapping[str, list[Any]], num_rows: int) -> Mapping[str, Any]:
    """Write one row as plain values and several as lists."""
    if num_rows > 1:
        return columns
    return {name: values[0] for name, values in columns.items()}


def _headers(request_id: str, variant: Variant, epoch: int, fallback: bool) -> Headers:
    return [
        (b"x-heliostat-request-id", request_id.encode()),
        (b"x-heliostat-variant", variant.role.encode()),
        (b"x-heliostat-version", variant.version.encode()),
        (b"x-heliostat-epoch", b"%d" % epoch),
        (b"x-heliostat-fallback", b"1" if fallback else b"0"),
    ]
