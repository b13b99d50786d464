"""Answers one bound request: split, predict or forward, fall back, record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from heliostat import telemetry
from heliostat.errors import ConfigError
from heliostat.rollout.policy import Variant
from heliostat.serving import asgi, fields, invocations, protocol
from heliostat.serving.asking import Asked, Variants
from heliostat.serving.evidence import Gatherer
from heliostat.serving.exposures import Spool
from heliostat.serving.metrics import Meter
from heliostat.serving.pairs import PairJob, PairScorer
from heliostat.serving.refused import Refused
from heliostat.stats.slots import slot as slot_of

Headers = list[tuple[bytes, bytes]]

_MAX_MESSAGES_PER_S = 10


@dataclass(slots=True)
class Answer:
    """What is sent back."""

    status: int
    body: bytes
    headers: Headers


class Answerer:
    """Knows who answers a request, and what to note about it."""

    def __init__(
        self,
        *,
        variants: Variants,
        gatherer: Gatherer,
        spool: Spool,
        pairs: PairScorer,
        meter: Meter,
        max_per_model: int,
        clock: Callable[[], float],
        timer: Callable[[], float],
    ) -> None:
        self._variants = variants
        self._gatherer = gatherer
        self._spool = spool
        self._pairs = pairs
        self._meter = meter
        self._max_per_model = max_per_model
        self._clock = clock
        self._timer = timer
        self.ongoing: dict[str, int] = {}
        """Requests being worked on, by model."""

        self._told: tuple[int, int] = (0, 0)

    async def answer(self, asked: Asked) -> Answer:
        """Answer with the variant that the unit's slot names, or with the stable one instead.

        Raises:
            Refused: 503; the model has all the work it may have, or no version that may
                answer could.
        """
        model = asked.served.policy.model
        ongoing = self.ongoing.get(model, 0)
        if ongoing >= self._max_per_model:
            raise Refused(
                503, f"model {model}: {ongoing} requests are being worked on", retry_after_s=1
            )
        self.ongoing[model] = ongoing + 1
        try:
            return await self._answer(asked)
        finally:
            self.ongoing[model] -= 1

    async def _answer(self, asked: Asked) -> Answer:
        served, policy, only_index = asked.served, asked.served.policy, asked.only_index
        if asked.row.by_keys:
            began = self._timer()
            await asked.row.fetch(served.versions)
            if asked.row.is_fetched:
                self._meter.observe(
                    "heliostat_feature_seconds", served.policy_labels, self._timer() - began
                )
            if asked.row.is_by_feast:
                self._meter.add("heliostat_feature_feast_reads", served.policy_labels)
            if asked.row.has_defaults:
                self._meter.add("heliostat_feature_defaults", served.policy_labels)
        slot = slot_of(asked.unit, policy.model)
        index = policy.slots[slot] if only_index is None else only_index
        answered_by, scores, own_ms = index, None, None
        try:
            scores, hop_ms = await self._variants.scores(asked, index)
            own_ms = (self._timer() - asked.started) * 1000 - hop_ms
        except Refused:
            raise
        except Exception as error:  # noqa: BLE001
            self._tell("variant.failed", asked, policy.variants[index], error)
            instead = policy.fallback(index) if only_index is None else None
            if instead is not None:
                answered_by = instead
                scores = await self._fall_back(asked, policy.variants[index], instead)
        latency_ms = (self._timer() - asked.started) * 1000
        if only_index is None:
            failed = own_ms is None or own_ms > policy.deadline_s * 1000
            self._gatherer.count(
                policy,
                served.epoch,
                policy.variants[index].name,
                unit=asked.unit,
                latency_ms=own_ms,
                failed=failed,
            )
        variant = policy.variants[answered_by]
        fallback = answered_by != index
        status = 200 if scores is not None else 500 if answered_by == 0 else 503
        self._expose(asked, variant, answered_by, slot, fallback, status, latency_ms, scores)
        mark = served.marks[answered_by]
        self._meter.add("heliostat_requests", (*mark.labels, _STATUS_TEXT[status]))
        self._meter.observe("heliostat_request_seconds", mark.labels, latency_ms / 1000)
        headers = [
            (fields.REQUEST_ID, asked.request_id.encode()),
            *(mark.fallback_headers if fallback else mark.headers),
        ]
        if asked.row.has_defaults:
            headers.append((b"x-heliostat-features", b"default"))
        if scores is None:
            message = f"version {variant.version} could not answer; see the gateway's log"
            return Answer(status, protocol.error(message), [asgi.JSON, *headers])
        if only_index is None and policy.paired:
            self._pair(asked, answered_by, scores)
        return _encode(asked, variant, scores, headers)

    async def _fall_back(self, asked: Asked, assigned: Variant, instead: int) -> list[float] | None:
        model = asked.served.policy.model
        self._meter.add("heliostat_fallbacks", (model, assigned.version))
        try:
            return (await self._variants.scores(asked, instead))[0]
        except Refused:
            raise
        except Exception as error:  # noqa: BLE001
            self._tell("fallback.failed", asked, asked.served.policy.variants[instead], error)
            return None

    def _expose(
        self,
        asked: Asked,
        variant: Variant,
        answered_by: int,
        slot: int,
        fallback: bool,
        status: int,
        latency_ms: float,
        scores: list[float] | None,
    ) -> None:
        row, loaded = asked.row, asked.served.versions[answered_by]
        one = asked.num_rows == 1
        keys = row.given if row.by_keys else {}
        try:
            features = row.features(loaded) if loaded else {}
        except ConfigError:
            # Its on-demand features cannot be computed: that is why it did not answer.
            features = {}
        self._spool.add(
            {
                "request_id": asked.request_id,
                "ts": self._clock(),
                "model": asked.served.policy.model,
                "version": variant.version,
                "variant": variant.role,
                "epoch": asked.served.epoch,
                "unit": asked.unit,
                "slot": slot if asked.only_index is None else None,
                "fallback": fallback,
                "status": status,
                "latency_ms": round(latency_ms, 3),
                "rows": asked.num_rows,
                "keys": _first(keys) if one and keys else keys,
                "features": _first(features) if one and features else features,
                "scores": scores or [],
            }
        )

    def _pair(self, asked: Asked, answered_by: int, scores: list[float]) -> None:
        served = asked.served
        for index, variant in enumerate(served.policy.variants):
            version = served.versions[index]
            if index == 0 or version is None:
                continue
            try:
                columns = asked.row.columns(version)
            except (KeyError, ConfigError, Refused):
                continue
            self._pairs.add(
                PairJob(
                    request_id=asked.request_id,
                    served=served,
                    index=index,
                    is_evidence=variant.role in ("candidate", "previous"),
                    num_rows=asked.num_rows,
                    stable_columns=asked.row.columns(served.stable),
                    columns=columns,
                    stable_scores=scores if answered_by == 0 else None,
                    scores=scores if answered_by == index else None,
                )
            )

    def _tell(self, name: str, asked: Asked, variant: Variant, error: Exception) -> None:
        """Log a failure; a version that fails every request must not cost a line for each."""
        second, number = self._told
        now = int(self._clock())
        self._told = (now, number + 1) if now == second else (now, 1)
        if self._told[1] <= _MAX_MESSAGES_PER_S:
            telemetry.event(
                name,
                model=asked.served.policy.model, version=variant.version,
                request_id=asked.request_id, problem=str(error)[:300],
            )  # fmt: skip


_STATUS_TEXT = {200: "200", 500: "500", 503: "503"}


def _first(columns: Mapping[str, list[Any]]) -> dict[str, Any]:
    return {name: values[0] for name, values in columns.items()}


def _encode(asked: Asked, variant: Variant, scores: list[float], headers: Headers) -> Answer:
    if asked.form == "invocations":
        return Answer(200, invocations.answer(scores), [asgi.JSON, *headers])
    parts: dict[str, Any] = {
        "model": asked.served.policy.model,
        "version": variant.version,
        "request_id": asked.request_id,
        "output": asked.served.stable.description.output,
        "scores": scores,
    }
    if asked.form == "json":
        return Answer(200, protocol.answer(**parts), [asgi.JSON, *headers])
    body, head_bytes = protocol.binary_answer(**parts)
    length = (b"inference-header-content-length", b"%d" % head_bytes)
    return Answer(200, body, [asgi.BINARY, length, *headers])
