"""Paired scoring: the same rows scored by stable and candidate, after the answers are out."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from heliostat import telemetry
from heliostat.rollout.evidence import PairedScore
from heliostat.serving.evidence import Gatherer
from heliostat.serving.forward import VariantClient, VariantFailed
from heliostat.serving.versions import LoadedVersion, ServedModel

_STABLE_CHUNK_ROWS = 128
"""About half a millisecond of the event loop; answers go out in between."""

_CANDIDATE_CHUNK_ROWS = 1_000
_CANDIDATE_TIMEOUT_S = 5.0
_MAX_ATTEMPTS = 3

Columns = Mapping[str, Sequence[Any]]


@dataclass(kw_only=True, slots=True)
class PairJob:
    """One answered request that both versions shall score."""

    request_id: str
    served: ServedModel
    candidate_index: int
    num_rows: int
    stable_columns: Columns
    candidate_columns: Columns
    stable_scores: list[float] | None = None
    candidate_scores: list[float] | None = None
    attempts: int = 0


class PairScorer:
    """A bounded queue of jobs; `run_once` scores what waits and reports the pairs.

    Never waited for by an answer. When it cannot keep up, the newest jobs are dropped and
    counted.
    """

    def __init__(
        self, variants: VariantClient, gatherer: Gatherer, *, max_waiting: int = 5_000
    ) -> None:
        self._variants = variants
        self._gatherer = gatherer
        self._max_waiting = max_waiting
        self._waiting: deque[PairJob] = deque()
        self.num_dropped = 0

    def add(self, job: PairJob) -> None:
        """Take a job if there is room."""
        if len(self._waiting) >= self._max_waiting:
            self.num_dropped += 1
        else:
            self._waiting.append(job)

    async def run_once(self) -> None:
        """Score everything that waits now."""
        jobs, self._waiting = self._waiting, deque()
        groups: dict[tuple[str, int], list[PairJob]] = {}
        for job in jobs:
            groups.setdefault((job.served.policy.model, job.served.epoch), []).append(job)
        for group in groups.values():
            await self._score_stable([job for job in group if job.stable_scores is None])
            await self._score_candidate([job for job in group if job.candidate_scores is None])
            for job in group:
                self._report(job)

    async def _score_stable(self, jobs: list[PairJob]) -> None:
        for chunk in _chunks(jobs, _STABLE_CHUNK_ROWS):
            try:
                scores = predict(chunk[0].served.stable, _merge([j.stable_columns for j in chunk]))
            except Exception as error:  # noqa: BLE001
                telemetry.event("pairs.stable_failed", problem=str(error)[:300])
                continue
            _share(chunk, scores, "stable_scores")
            await asyncio.sleep(0)

    async def _score_candidate(self, jobs: list[PairJob]) -> None:
        for chunk in _chunks(jobs, _CANDIDATE_CHUNK_ROWS):
            served, index = chunk[0].served, chunk[0].candidate_index
            variant, version = served.policy.variants[index], served.versions[index]
            columns = _merge([job.candidate_columns for job in chunk])
            try:
                if variant.url is None:
                    scores = predict(version, columns)
                else:
                    scores = await self._variants.score(
                        variant.url,
                        columns,
                        num_rows=sum(job.num_rows for job in chunk),
                        request_id=chunk[0].request_id,
                        epoch=served.epoch,
                        timeout_s=_CANDIDATE_TIMEOUT_S,
                        shadow=True,
                    )
            except Exception as error:  # noqa: BLE001
                if not isinstance(error, VariantFailed):
                    telemetry.event("pairs.candidate_failed", problem=str(error)[:300])
                continue
            _share(chunk, scores, "candidate_scores")

    def _report(self, job: PairJob) -> None:
        if job.stable_scores is None or job.candidate_scores is None:
            job.attempts += 1
            if job.attempts < _MAX_ATTEMPTS:
                self.add(job)
            else:
                self.num_dropped += 1
            return
        for row, (stable, candidate) in enumerate(
            zip(job.stable_scores, job.candidate_scores, strict=True)
        ):
            request_id = job.request_id if job.num_rows == 1 else f"{job.request_id}/{row}"
            self._gatherer.pair(
                job.served.policy,
                job.served.epoch,
                PairedScore(request_id=request_id, stable=stable, candidate=candidate),
            )


def predict(version: LoadedVersion | None, columns: Columns) -> list[float]:
    """Score rows in this process.

    Raises:
        VariantFailed: The version cannot be used here, or a score is not finite.
        ConfigError: The columns do not fit.
    """
    if version is None or version.predictor is None:
        raise VariantFailed("the version is not loaded in this process")
    scores: list[float] = version.predictor.predict(columns).tolist()
    if not all(map(math.isfinite, scores)):
        raise VariantFailed("a score is not finite")
    return scores


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
