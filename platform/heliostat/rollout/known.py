"""All that is known of a rollout at one moment: counts and moments that merge and can be stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from heliostat.rollout.evidence import LATENCY_EDGES_MS, VariantCounts
from heliostat.stats import harm
from heliostat.stats.means import Moments

NUM_BUCKETS = len(LATENCY_EDGES_MS) + 1
NO_VALUES = Moments()
SPELL_S = 5.0
"""Errors closer together than this may well have one cause."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tally:
    """Everything counted of one version."""

    requests: int = 0
    errors: int = 0
    latency: tuple[int, ...] = (0,) * NUM_BUCKETS

    def add(self, counts: VariantCounts) -> Tally:
        """Merge with one more report's counts."""
        return Tally(
            requests=self.requests + counts.requests,
            errors=self.errors + counts.errors,
            latency=tuple(a + b for a, b in zip(self.latency, counts.latency, strict=True)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitCount:
    """Units that one gateway saw for the first time under one policy epoch."""

    epoch: int
    gateway: str
    stable: int
    candidate: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """What was not used, and why."""

    repeated_reports: int = 0
    foreign_reports: int = 0
    """Reports of another rollout or version."""

    invalid_reports: int = 0
    """Counts that contradict themselves."""

    invalid_pairs: int = 0
    """Scores or labels that are no probability or no 0/1."""

    forgotten_pairs: int = 0
    forgotten_labels: int = 0
    """Waited for their counterpart until memory was full."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """All that is known of a rollout at one moment."""

    stable: Tally = Tally()
    candidate: Tally = Tally()

    candidate_requests: Mapping[int, int] = field(default_factory=dict)
    """The candidate's requests by policy epoch."""

    harm_factors: tuple[float, ...] = (0.0,) * harm.RATE_RATIOS.size
    """Sum of `harm.log_factors` over all reports."""

    error_spells: int = 0
    """Stretches of SPELL_S seconds in which the candidate made errors."""

    splits: tuple[SplitCount, ...] = ()
    """In order of first appearance."""

    stable_loss: Moments = NO_VALUES
    candidate_loss: Moments = NO_VALUES
    loss_difference: Moments = NO_VALUES
    """Candidate minus stable, over the labelled pairs."""

    last_report_at: float | None = None
    last_label_at: float | None = None
    """When a label last completed a pair."""

    sequences: Mapping[str, int] = field(default_factory=dict)
    """The highest sequence seen of each gateway."""

    dropped: Dropped = Dropped()
    waiting_pairs: int = 0

    def requests_since(self, epoch: int) -> int:
        """The candidate's requests under this epoch and later ones."""
        return sum(count for at, count in self.candidate_requests.items() if at >= epoch)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` gives equal evidence back."""
        plain = asdict(self)
        # JSON has only text as keys.
        plain["candidate_requests"] = [list(item) for item in self.candidate_requests.items()]
        return plain

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> Evidence:
        """Build the evidence again from `to_dict`'s values."""
        return Evidence(
            stable=_tally(raw["stable"]),
            candidate=_tally(raw["candidate"]),
            candidate_requests=dict(raw["candidate_requests"]),
            harm_factors=tuple(raw["harm_factors"]),
            error_spells=raw["error_spells"],
            splits=tuple(SplitCount(**item) for item in raw["splits"]),
            stable_loss=Moments(**raw["stable_loss"]),
            candidate_loss=Moments(**raw["candidate_loss"]),
            loss_difference=Moments(**raw["loss_difference"]),
            last_report_at=raw["last_report_at"],
            last_label_at=raw["last_label_at"],
            sequences=dict(raw["sequences"]),
            dropped=Dropped(**raw["dropped"]),
            waiting_pairs=raw["waiting_pairs"],
        )


def _tally(raw: Mapping[str, Any]) -> Tally:
    return Tally(requests=raw["requests"], errors=raw["errors"], latency=tuple(raw["latency"]))
