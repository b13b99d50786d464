"""Gathers evidence in the gateway: counts, latencies and paired scores per model and epoch."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Sequence
from hashlib import blake2b

import msgspec

from heliostat.rollout.evidence import (
    LATENCY_EDGES_MS,
    EvidenceReport,
    PairedScore,
    VariantCounts,
)
from heliostat.rollout.policy import ModelPolicy
from heliostat.serving.units import Seen

_EPOCHS_KEPT = 3
_MAX_NAMES = 1_000
"""Failed units that one report names per version; the others are counted only."""


class _Version:
    __slots__ = ("errors", "failed_names", "failed_units", "latency", "requests", "units")

    def __init__(self) -> None:
        self.requests = 0
        self.errors = 0
        self.units = 0
        self.failed_units = 0
        self.failed_names: list[int] = []
        self.latency = [0] * (len(LATENCY_EDGES_MS) + 1)


class _Epoch:
    """What was seen of one model under one epoch since the last report."""

    __slots__ = ("failed", "pairs", "rollout_id", "seen", "stable", "versions")

    def __init__(self, rollout_id: str | None, stable: str) -> None:
        self.rollout_id = rollout_id
        self.stable = stable
        self.versions: dict[str, _Version] = {}
        self.pairs: list[PairedScore] = []
        self.seen = Seen()
        self.failed = Seen()


class Gatherer:
    """Adds up what one gateway sees; `take` hands it over as reports and begins again."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self._sequence = 0
        self._models: dict[str, dict[int, _Epoch]] = {}

    def count(
        self,
        policy: ModelPolicy,
        epoch: int,
        version: str,
        *,
        unit: str,
        latency_ms: float | None,
        failed: bool,
    ) -> None:
        """Count one request that was assigned to a version.

        Args:
            version: The variant's name, by which a twin is told from the stable version.
            latency_ms: The version's own answer time; None if another version answered.
            failed: Whether the version did not answer well in time.
        """
        gathered = self._epoch(policy, epoch)
        counts = gathered.versions.get(version)
        if counts is None:
            counts = gathered.versions[version] = _Version()
        counts.requests += 1
        counts.errors += failed
        if latency_ms is not None:
            counts.latency[bisect_left(LATENCY_EDGES_MS, latency_ms)] += 1
        name = hash(unit)
        counts.units += gathered.seen.add(name)
        if failed and gathered.failed.add(name):
            counts.failed_units += 1
            if len(counts.failed_names) < _MAX_NAMES:
                # `hash` differs from process to process; this one is the same everywhere.
                digest = blake2b(unit.encode(), digest_size=8).digest()
                counts.failed_names.append(int.from_bytes(digest, "big") >> 1)

    def pair(self, policy: ModelPolicy, epoch: int, pair: PairedScore) -> None:
        """Add the scores of both versions for one row."""
        self._epoch(policy, epoch).pairs.append(pair)

    def take(self) -> list[EvidenceReport]:
        """Return what came since the last call, one report per model and epoch."""
        reports = []
        for model, epochs in self._models.items():
            for epoch, gathered in epochs.items():
                if not gathered.versions and not gathered.pairs:
                    continue
                reports.append(
                    EvidenceReport(
                        gateway=self._gateway,
                        sequence=self._sequence,
                        model=model,
                        rollout_id=gathered.rollout_id,
                        epoch=epoch,
                        counts=tuple(
                            VariantCounts(
                                version=version,
                                requests=counts.requests,
                                errors=counts.errors,
                                units=counts.units,
                                latency=tuple(counts.latency),
                                failed_units=counts.failed_units,
                                failed_names=tuple(counts.failed_names),
                            )
                            for version, counts in gathered.versions.items()
                        ),
                        pairs=tuple(gathered.pairs),
                        stable=gathered.stable,
                    )
                )
                self._sequence += 1
                gathered.versions = {}
                gathered.pairs = []
        return reports

    def idle(
        self, epoch: int, models: Iterable[ModelPolicy], taken: Sequence[EvidenceReport]
    ) -> list[EvidenceReport]:
        """Return an empty report for each rollout that none of those taken is about.

        Without it nobody could tell a model that nobody asks from a gateway that is gone.

        Args:
            epoch: Of the policy that holds now.
            models: What this gateway answers for under it.
            taken: What came since the last time.
        """
        reports = []
        told = {report.rollout_id for report in taken}
        for model in models:
            if model.rollout_id is None or model.rollout_id in told:
                continue
            reports.append(
                EvidenceReport(
                    gateway=self._gateway, sequence=self._sequence, model=model.model,
                    rollout_id=model.rollout_id, epoch=epoch, counts=(),
                    stable=model.stable.version,
                )
            )  # fmt: skip
            self._sequence += 1
        return reports

    def _epoch(self, policy: ModelPolicy, epoch: int) -> _Epoch:
        epochs = self._models.setdefault(policy.model, {})
        gathered = epochs.get(epoch)
        if gathered is None:
            gathered = epochs[epoch] = _Epoch(policy.rollout_id, policy.stable.version)
            idle = [
                old for old in sorted(epochs)[:-_EPOCHS_KEPT]
                if not epochs[old].versions and not epochs[old].pairs
            ]  # fmt: skip
            for old in idle:
                del epochs[old]
        return gathered


class Outbox:
    """Reports that wait until the controller has acknowledged them, oldest first.

    Bounded: when the controller is gone for long, the oldest are dropped and counted, and
    the gap shows to the receiver as missing sequence numbers.
    """

    def __init__(self, *, max_reports: int = 600, batch: int = 60) -> None:
        self._reports: deque[EvidenceReport] = deque()
        self._max_reports = max_reports
        self._batch = batch
        self.num_dropped = 0

    def __len__(self) -> int:
        return len(self._reports)

    def put(self, reports: list[EvidenceReport]) -> None:
        """Add reports."""
        self._reports.extend(reports)
        while len(self._reports) > self._max_reports:
            self._reports.popleft()
            self.num_dropped += 1

    def next_batch(self) -> tuple[bytes, int] | None:
        """Return the JSON list to send next and its last sequence number."""
        if not self._reports:
            return None
        batch = [report.to_dict() for report in list(self._reports)[: self._batch]]
        return msgspec.json.encode(batch), batch[-1]["sequence"]

    def acknowledged(self, sequence: int) -> None:
        """Forget the reports up to and including this sequence number."""
        while self._reports and self._reports[0].sequence <= sequence:
            self._reports.popleft()
