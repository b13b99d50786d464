"""All that is known of a rollout at one moment: counts and moments that merge and can be stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from heliostat.rollout.evidence import LATENCY_EDGES_MS, VariantCounts
from heliostat.stats import harm, units
from heliostat.stats.means import Moments

NUM_BUCKETS = len(LATENCY_EDGES_MS) + 1
NO_VALUES = Moments()
NO_HARM = harm.Thinned.none()
_NO_UNITS = units.Sums()

Verdict = Literal["pass", "fail", "inconclusive", "error"]
"""What a gate or a check says; only pass lets a rollout move on, and fail takes it back."""


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
    """Scores or labels that the loss is not made for, such as a probability above 1."""

    forgotten_pairs: int = 0
    forgotten_labels: int = 0
    """Waited for their counterpart until memory was full."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """What a check answered when it was last asked."""

    verdict: Verdict
    because: str
    at: float
    value: float | None = None
    """The number of a query."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """Outcomes of the units of both versions in an A/B test.

    Per unit, a is the sum of its values since the test began; b is the sum of its values from
    before, or the number of its events since, as the plan's comparison says.
    """

    stable: units.Sums = _NO_UNITS
    candidate: units.Sums = _NO_UNITS

    @property
    def units(self) -> int:
        """Units of both versions together."""
        return self.stable.units + self.candidate.units


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """All that is known of a rollout at one moment."""

    stable: Tally = Tally()
    candidate: Tally = Tally()

    candidate_requests: Mapping[int, int] = field(default_factory=dict)
    """The candidate's requests by policy epoch."""

    harm: harm.Thinned = NO_HARM
    """Errors of both versions, thinned so that a burst counts once."""

    unnamed_reports: int = 0
    """Reports with errors that did not tell which units failed; `harm` counts their errors, and
    of all others the units that failed."""

    units: int = 0
    """First appearances of units, per gateway and epoch, of both versions."""

    counted_requests: int = 0
    """Requests of the reports that told of units."""

    splits: tuple[SplitCount, ...] = ()
    """In order of first appearance."""

    stable_loss: Moments = NO_VALUES
    candidate_loss: Moments = NO_VALUES
    loss_difference: Moments = NO_VALUES
    """Candidate minus stable, over the labelled pairs."""

    gaps: Moments = NO_VALUES
    """Distance of the two scores, over all pairs, labelled or not."""

    flips: int = 0
    """Pairs of probabilities that lie on different sides of one half."""

    checks: Mapping[str, CheckResult] = field(default_factory=dict)
    """By name, of those that were asked already."""

    compared: Compared | None = None
    """None where nothing is compared."""

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

    @property
    def requests_per_unit(self) -> float:
        """Mean requests of a unit, at least 1; more gateways see each unit more often for the first time."""
        if self.units == 0:
            return 1.0
        gateways = len({split.gateway for split in self.splits}) or 1
        return 1 + max(0.0, self.counted_requests / self.units - 1) * gateways

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` gives equal evidence back."""
        plain: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self)}
        for name in (
            "stable", "candidate", "stable_loss", "candidate_loss", "loss_difference", "dropped",
            "gaps",
        ):  # fmt: skip
            plain[name] = asdict(plain[name])
        plain["checks"] = {name: asdict(result) for name, result in self.checks.items()}
        plain["compared"] = None if self.compared is None else asdict(self.compared)
        plain["harm"] = self.harm.to_dict()
        plain["splits"] = [asdict(item) for item in self.splits]
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
            # Logs written before errors were thinned have none of these.
            harm=harm.Thinned.from_dict(raw["harm"]) if "harm" in raw else NO_HARM,
            unnamed_reports=raw.get("unnamed_reports", 1 if "harm" in raw else 0),
            units=raw.get("units", 0),
            counted_requests=raw.get("counted_requests", 0),
            splits=tuple(SplitCount(**item) for item in raw["splits"]),
            stable_loss=Moments(**raw["stable_loss"]),
            candidate_loss=Moments(**raw["candidate_loss"]),
            loss_difference=Moments(**raw["loss_difference"]),
            # Nor of what was mirrored, asked and compared.
            gaps=Moments(**raw["gaps"]) if "gaps" in raw else NO_VALUES,
            flips=raw.get("flips", 0),
            checks={name: CheckResult(**result) for name, result in raw.get("checks", {}).items()},
            compared=_compared(raw.get("compared")),
            last_report_at=raw["last_report_at"],
            last_label_at=raw["last_label_at"],
            sequences=dict(raw["sequences"]),
            dropped=Dropped(**raw["dropped"]),
            waiting_pairs=raw["waiting_pairs"],
        )


def _compared(raw: Mapping[str, Any] | None) -> Compared | None:
    if raw is None:
        return None
    return Compared(**{name: units.Sums(**sums) for name, sums in raw.items()})


def _tally(raw: Mapping[str, Any]) -> Tally:
    return Tally(requests=raw["requests"], errors=raw["errors"], latency=tuple(raw["latency"]))
