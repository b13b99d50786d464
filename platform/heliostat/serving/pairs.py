"""Paired scoring: the same rows scored by stable and others, after the answers are out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heliostat import telemetry
from heliostat.rollout.evidence import PairedScore
from heliostat.serving.asking import Scorer
from heliostat.serving.evidence import Gatherer
from heliostat.serving.forward import VariantClient, VariantFailed
from heliostat.serving.metrics import Meter
from heliostat.serving.shadowing import Differences, compare
from heliostat.serving.versions import ServedModel

_STABLE_CHUNK_ROWS = 128
"""About half a millisecond of the event loop; answers go out in between."""

_OTHER_CHUNK_ROWS = 1_000
_OTHER_TIMEOUT_S = 5.0
_MAX_ATTEMPTS = 3

Columns = Mapping[str, Sequence[Any]]


@dataclass(kw_only=True, slots=True)
class PairJob:
    """One answered request that the stable version and one other shall score."""

    request_id: str
    served: ServedModel
    index: int
    """Which other variant."""

    is_evidence: bool
    """Whether the controller wants the pair: not where the other is a twin of the stable one."""

    num_rows: int
    stable_columns: Columns
    columns: Columns
    stable_scores: list[float] | None = None
    scores: list[float] | None = None
    attempts: int = 0


class PairScorer:
    """A bounded queue of jobs; `run_once` scores what waits and reports the pairs.

    Never waited for by an answer. When it cannot keep up, the newest jobs are dropped and
    counted.
    """

    def __init__(
        self,
        scorer: Scorer,
        variants: VariantClient,
        gatherer: Gatherer,
        meter: Meter,
        *,
        max_waiting: int = 5_000,
    ) -> None:
        self._scorer = scorer
        self._variants = variants
        self._gatherer = gatherer
        self._meter = meter
        self._max_waiting = max_waiting
        self._differences: dict[tuple[str, str], Differences] = {}
        self._waiting: deque[PairJob] = deque()
        self.num_dropped = 0

    def add(self, job: PairJob) -> None:
        """Take a job if there is room."""
        if len(self._waiting) >= self._max_waiting:
            self.num_dropped += 1
        else:
            self._waiting.append(job)

    @property
    def num_waiting(self) -> int:
        """Jobs that wait now."""
        return len(self._waiting)

    async def run_once(self) -> None:
        """Score everything that waits now."""
        jobs, self._waiting = self._waiting, deque()
        groups: dict[tuple[str, int, int], list[PairJob]] = {}
        for job in jobs:
            key = (job.served.policy.model, job.served.epoch, job.index)
            groups.setdefault(key, []).append(job)
        for group in groups.values():
            await self._score_stable([job for job in group if job.stable_scores is None])
            await self._score_other([job for job in group if job.scores is None])
            for job in group:
                self._report(job)

    def compare(self, served: ServedModel, index: int) -> dict[str, Any]:
        """Say how a variant's scores differ from the stable ones, less what a twin shows."""
        model, variants = served.policy.model, served.policy.variants
        roles: list[str] = [variant.role for variant in variants]
        twin = None
        if "baseline" in roles and roles[index] != "baseline":
            name = variants[roles.index("baseline")].version
            twin = self._differences.get((model, f"{name} baseline"))
        own = self._differences.get(self._key(served, index)) or Differences()
        return {"model": model, "version": variants[index].version, **compare(own, twin)}

    @staticmethod
    def _key(served: ServedModel, index: int) -> tuple[str, str]:
        # A twin has the stable version's own number.
        variant = served.policy.variants[index]
        role: str = variant.role
        suffix = " baseline" if role == "baseline" else ""
        return served.policy.model, variant.version + suffix

    async def _score_stable(self, jobs: list[PairJob]) -> None:
        for chunk in _chunks(jobs, _STABLE_CHUNK_ROWS):
            columns = _merge([job.stable_columns for job in chunk])
            num_rows = sum(job.num_rows for job in chunk)
            try:
                scores = await self._scorer.score(chunk[0].served.stable, columns, num_rows)
            except Exception as error:  # noqa: BLE001
                telemetry.event("pairs.stable_failed", problem=str(error)[:300])
                continue
            _share(chunk, scores, "stable_scores")
            await asyncio.sleep(0)

    async def _score_other(self, jobs: list[PairJob]) -> None:
        for chunk in _chunks(jobs, _OTHER_CHUNK_ROWS):
            served, index = chunk[0].served, chunk[0].index
            variant, version = served.policy.variants[index], served.versions[index]
            columns = _merge([job.columns for job in chunk])
            num_rows = sum(job.num_rows for job in chunk)
            own_s = None
            try:
                if variant.url is None:
                    scores = await self._scorer.score(version, columns, num_rows)
                else:
                    found = await self._variants.score(
                        variant.url,
                        columns,
                        num_rows=num_rows,
                        request_id=chunk[0].request_id,
                        epoch=served.epoch,
                        timeout_s=_OTHER_TIMEOUT_S,
                        shadow=True,
                    )
                    scores = found.scores
                    own_s = None if found.own_ms is None else found.own_ms / 1000 / num_rows
            except Exception as error:  # noqa: BLE001
                if not isinstance(error, VariantFailed):
                    telemetry.event("pairs.other_failed", problem=str(error)[:300])
                continue
            _share(chunk, scores, "scores")
            if own_s is not None:
                self._of(served, index).add((), (), latency_s=own_s)

    def _of(self, served: ServedModel, index: int) -> Differences:
        key = self._key(served, index)
        found = self._differences.get(key)
        if found is None:
            found = self._differences[key] = Differences()
        return found

    def forget(self, models: Mapping[str, ServedModel]) -> None:
        """Drop what was seen of versions that no policy names any more."""
        known = {
            self._key(served, index)
            for served in models.values()
            for index in range(len(served.policy.variants))
        }
        self._differences = {k: v for k, v in self._differences.items() if k in known}

    def _report(self, job: PairJob) -> None:
        if job.stable_scores is None or job.scores is None:
            job.attempts += 1
            if job.attempts < _MAX_ATTEMPTS:
                self.add(job)
            else:
                self.num_dropped += 1
            return
        policy = job.served.policy
        beyond, flips = self._of(job.served, job.index).add(job.stable_scores, job.scores)
        labels = self._key(job.served, job.index)
        self._meter.add("heliostat_shadow_rows", labels, job.num_rows)
        self._meter.add("heliostat_shadow_beyond", labels, beyond)
        self._meter.add("heliostat_shadow_flips", labels, flips)
        if not job.is_evidence:
            return
        for row, (stable, other) in enumerate(zip(job.stable_scores, job.scores, strict=True)):
            request_id = job.request_id if job.num_rows == 1 else f"{job.request_id}/{row}"
            self._gatherer.pair(
                policy,
                job.served.epoch,
                PairedScore(request_id=request_id, stable=stable, candidate=other),
            )


def _chunks(jobs: list[PairJob], max_rows: int) -> list[list[PairJob]]:
    chunks: list[list[PairJob]] = []
    rows = max_rows
    for job in jobs:
        if rows + job.num_rows > max_rows:
            chunks.append([])
            rows = 0
        chunks[-1].append(job)
        rows += job.num_rows
    return chunks


def _merge(parts: list[Columns]) -> dict[str, list[Any]]:
    return {name: [value for part in parts for value in part[name]] for name in parts[0]}


def _share(jobs: list[PairJob], scores: list[float], field: str) -> None:
    start = 0
    for job in jobs:
        setattr(job, field, scores[start : start + job.num_rows])
        start += job.num_rows
