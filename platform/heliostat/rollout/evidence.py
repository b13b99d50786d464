"""What gateways report about live traffic: counts, latencies and paired scores that merge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LATENCY_EDGES_MS: tuple[float, ...] = tuple(round(0.05 * 1.1**i, 6) for i in range(140))
"""Upper edges of the latency buckets, 0.05 ms to about 28 s, each 10 % above the last.

A histogram has one count more than there are edges; the last one is for everything slower.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantCounts:
    """First-attempt outcomes of the requests assigned to one version (intent to treat)."""

    version: str

    requests: int
    """Requests whose slot belonged to this version."""

    errors: int
    """Of them, those that this version did not answer well in time, fallbacks included."""

    units: int
    """Units (not requests) that were seen for the first time in this epoch."""

    latency: tuple[int, ...]
    """Histogram of the version's own answer times over LATENCY_EDGES_MS; no fallbacks."""

    failed_units: int | None = None
    """Units that this version failed for the first time in this epoch; None if not told."""

    failed_names: tuple[int, ...] = ()
    """Hashes of them, the same at every gateway, so that a unit counts once; the first ones
    where there are very many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedScore:
    """The same row scored by both versions, off the answer path; its label comes later."""

    request_id: str
    stable: float
    candidate: float


@dataclass(frozen=True, kw_only=True, slots=True)
class EvidenceReport:
    """What one gateway saw of one model since its last report.

    Delivered at least once; a receiver drops what it has by ``(gateway, sequence)``.
    """

    gateway: str
    """Id of one gateway process; a restarted one has a new id."""

    sequence: int
    """Rises by 1 with each report of this gateway, over all models."""

    model: str
    rollout_id: str | None
    epoch: int
    """The policy epoch under which all of this was seen."""

    counts: tuple[VariantCounts, ...]
    pairs: tuple[PairedScore, ...] = ()

    stable: str | None = None
    """The version that was stable under that epoch, whose score stands first in each pair."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` gives an equal report back."""
        return {
            "gateway": self.gateway,
            "sequence": self.sequence,
            "model": self.model,
            "rollout_id": self.rollout_id,
            "epoch": self.epoch,
            "counts": [
                {
                    "version": c.version,
                    "requests": c.requests,
                    "errors": c.errors,
                    "units": c.units,
                    "latency": list(c.latency),
                    "failed_units": c.failed_units,
                    "failed_names": list(c.failed_names),
                }
                for c in self.counts
            ],
            "pairs": [[p.request_id, p.stable, p.candidate] for p in self.pairs],
            "stable": self.stable,
        }

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> EvidenceReport:
        """Build the report again from `to_dict`'s values."""
        return EvidenceReport(
            gateway=raw["gateway"],
            sequence=raw["sequence"],
            model=raw["model"],
            rollout_id=raw["rollout_id"],
            epoch=raw["epoch"],
            counts=tuple(
                VariantCounts(
                    **{
                        **counts,
                        "latency": tuple(counts["latency"]),
                        "failed_names": tuple(counts.get("failed_names", ())),
                    }
                )
                for counts in raw["counts"]
            ),
            pairs=tuple(
                PairedScore(request_id=request_id, stable=stable, candidate=candidate)
                for request_id, stable, candidate in raw["pairs"]
            ),
            stable=raw.get("stable"),
        )
