"""Folds gateways' reports and late labels into evidence that a decision can be made on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from heliostat.rollout.allowed import Loss
from heliostat.rollout.evidence import EvidenceReport, PairedScore, VariantCounts
from heliostat.rollout.known import NUM_BUCKETS, Dropped, Evidence, SplitCount
from heliostat.rollout.policy import name_of_twin
from heliostat.stats.means import Moments

_CLIP = 1e-7
"""Scores are kept this far from 0 and 1, so that one sure mistake costs 16 nats, not infinity."""

_BOUNDARY = 0.5

_NAMES_KEPT = 200_000
"""Failed units that are remembered, so that one that fails at two gateways counts once."""

_SEQUENCES_KEPT = 10_000
"""Per gateway; an older report that comes so late counts as repeated."""


class Gathering:
    """Collects one rollout's evidence; the same inputs in any order give the same counts.

    Reports may arrive more than once and out of order; pairs and labels in either order.
    It is not safe for threads.
    """

    def __init__(
        self,
        *,
        rollout_id: str,
        model: str,
        stable: str,
        candidate: str,
        twin: bool = False,
        baking: bool = False,
        loss: Loss = "log_loss",
        earlier: Evidence | None = None,
        max_waiting: int = 200_000,
    ) -> None:
        """Begin, or go on from what was stored.

        Args:
            rollout_id: Reports of other rollouts are not used.
            model: Likewise.
            stable: Version that the candidate is compared with.
            candidate: Version on trial.
            twin: Whether errors and latency are compared with a twin of the stable version.
            baking: Whether this is about the time after the promotion: the candidate is
                stable then, and the version before has the smaller share.
            loss: What a labelled pair costs either version; says which labels make sense.
            earlier: Evidence of the same rollout that an earlier process stored; pairs that
                waited for their label then are lost.
            max_waiting: Pairs, and labels, that may wait for their counterpart; the oldest
                are forgotten first, and counted.
        """
        known = earlier or Evidence()
        self.rollout_id = rollout_id
        self.model = model
        self._stable = stable
        self._candidate = candidate
        self._compared = name_of_twin(stable) if twin and not baking else stable
        self.baking = baking
        self._loss = loss
        self._max_waiting = max_waiting
        self._tallies = {self._compared: known.stable, candidate: known.candidate}
        self._requests = dict(known.candidate_requests)
        self._harm = known.harm
        self._unnamed = known.unnamed_reports
        # After a restart a unit may count once more: its name is not stored.
        self._failed: dict[int, None] = {}
        self._units = known.units
        self._counted = known.counted_requests
        self._splits = {
            (item.epoch, item.gateway): (item.stable, item.candidate) for item in known.splits
        }
        self._moments = [known.stable_loss, known.candidate_loss, known.loss_difference]
        self._gaps, self._flips = known.gaps, known.flips
        self._last_report_at = known.last_report_at
        self._last_label_at = known.last_label_at
        self._floors = dict(known.sequences)
        self._seen: dict[str, set[int]] = {}
        self._pairs: dict[str, PairedScore] = {}
        self._labels: dict[str, float] = {}
        self._dropped = asdict(known.dropped)

    def report(self, report: EvidenceReport, now: float) -> bool:
        """Add one gateway report; returns whether it was new and of this rollout."""
        if report.model != self.model or report.rollout_id != self.rollout_id:
            self._drop("foreign_reports")
            return False
        if report.stable not in (None, self._candidate if self.baking else self._stable):
            # From before or after the promotion, which are judged apart.
            self._drop("foreign_reports")
            return False
        if not self._first_time(report.gateway, report.sequence):
            self._drop("repeated_reports")
            return False
        counts = {item.version: item for item in report.counts}
        if not all(_plausible(item) for item in report.counts):
            self._drop("invalid_reports")
            return False
        self._last_report_at = now
        for version, tally in self._tallies.items():
            if version in counts:
                self._tallies[version] = tally.add(counts[version])
        self._compare(report, counts.get(self._compared), counts.get(self._candidate), now)
        pairs = [_turned(pair) for pair in report.pairs] if self.baking else report.pairs
        self._join([pair.request_id for pair in pairs if self._offer(pair)], now)
        self._measure(np.array([(pair.stable, pair.candidate) for pair in pairs]).reshape(-1, 2))
        return True

    def labels(self, labels: Sequence[tuple[str, float]], now: float) -> int:
        """Add true outcomes by request id; returns how many completed a pair."""
        found = []
        for request_id, label in labels:
            if not (label in (0, 1) if self._loss == "log_loss" else math.isfinite(label)):
                self._drop("invalid_pairs")
            elif request_id in self._pairs:
                self._labels[request_id] = float(label)
                found.append(request_id)
            else:
                self._labels.pop(request_id, None)
                self._labels[request_id] = float(label)
                self._bound(self._labels, "forgotten_labels")
        return self._join(found, now)

    def evidence(self) -> Evidence:
        """An immutable picture of everything gathered so far."""
        stable_loss, candidate_loss, difference = self._moments
        return Evidence(
            stable=self._tallies[self._compared],
            candidate=self._tallies[self._candidate],
            candidate_requests=dict(self._requests),
            harm=self._harm,
            unnamed_reports=self._unnamed,
            units=self._units,
            counted_requests=self._counted,
            splits=tuple(
                SplitCount(epoch=epoch, gateway=gateway, stable=stable, candidate=candidate)
                for (epoch, gateway), (stable, candidate) in self._splits.items()
            ),
            stable_loss=stable_loss,
            candidate_loss=candidate_loss,
            loss_difference=difference,
            gaps=self._gaps,
            flips=self._flips,
            last_report_at=self._last_report_at,
            last_label_at=self._last_label_at,
            sequences={
                **self._floors,
                **{gateway: max(seen) for gateway, seen in self._seen.items()},
            },
            dropped=Dropped(**self._dropped),
            waiting_pairs=len(self._pairs),
        )

    def _first_time(self, gateway: str, sequence: int) -> bool:
        seen = self._seen.setdefault(gateway, set())
        if sequence in seen or sequence <= self._floors.get(gateway, -1):
            return False
        seen.add(sequence)
        if len(seen) > 2 * _SEQUENCES_KEPT:
            floor = max(seen) - _SEQUENCES_KEPT
            self._floors[gateway] = floor
            self._seen[gateway] = {item for item in seen if item > floor}
        return True

    def _compare(
        self,
        report: EvidenceReport,
        stable: VariantCounts | None,
        candidate: VariantCounts | None,
        now: float,
    ) -> None:
        requests = [0 if item is None else item.requests for item in (stable, candidate)]
        units = [0 if item is None else item.units for item in (stable, candidate)]
        if requests[1]:
            self._requests[report.epoch] = self._requests.get(report.epoch, 0) + requests[1]
        if sum(units):
            before = self._splits.get((report.epoch, report.gateway), (0, 0))
            self._splits[report.epoch, report.gateway] = (
                before[0] + units[0],
                before[1] + units[1],
            )
        self._units += sum(units)
        self._counted += sum(requests)
        if sum(requests):
            errors = self._failures(stable, candidate)
            self._harm = self._harm.add(
                now,
                requests=requests[1],
                errors=errors[1],
                stable_requests=requests[0],
                stable_errors=errors[0],
            )

    def _failures(self, *counts: VariantCounts | None) -> list[int]:
        """Units of each version that failed and had not failed before; errors where none is named."""
        told = [item for item in counts if item is not None]
        if any(item.errors and item.failed_units is None for item in told):
            self._unnamed += 1
            return [0 if item is None else item.errors for item in counts]
        return [0 if item is None else self._first_failures(item) for item in counts]

    def _first_failures(self, counts: VariantCounts) -> int:
        again = sum(name in self._failed for name in counts.failed_names)
        for name in counts.failed_names:
            self._failed[name] = None
        while len(self._failed) > _NAMES_KEPT:
            del self._failed[next(iter(self._failed))]
        return (counts.failed_units or 0) - again

    def _offer(self, pair: PairedScore) -> bool:
        """Keep a pair; say whether its label is here already."""
        low, high = (0.0, 1.0) if self._loss == "log_loss" else (-math.inf, math.inf)
        if not all(
            math.isfinite(score) and low <= score <= high for score in (pair.stable, pair.candidate)
        ):
            self._drop("invalid_pairs")
            return False
        self._pairs[pair.request_id] = pair
        self._bound(self._pairs, "forgotten_pairs")
        return pair.request_id in self._labels

    def _measure(self, scores: np.ndarray) -> None:
        """Note how far the two versions are apart, labels or not."""
        scores = scores[np.isfinite(scores).all(axis=1)]
        sides = scores >= _BOUNDARY
        if self._loss == "log_loss":
            self._flips += int((sides[:, 0] != sides[:, 1]).sum())
        self._gaps = self._gaps.merge(Moments.of(abs(scores[:, 1] - scores[:, 0])))

    def _join(self, request_ids: Sequence[str], now: float) -> int:
        whole = [name for name in dict.fromkeys(request_ids) if name in self._pairs]
        if not whole:
            return 0
        labels = np.array([self._labels.pop(name) for name in whole])
        pairs = [self._pairs.pop(name) for name in whole]
        cost = _log_loss if self._loss == "log_loss" else _squared_error
        stable = cost(np.array([pair.stable for pair in pairs]), labels)
        candidate = cost(np.array([pair.candidate for pair in pairs]), labels)
        for index, values in enumerate((stable, candidate, candidate - stable)):
            self._moments[index] = self._moments[index].merge(Moments.of(values))
        self._last_label_at = now
        return len(pairs)

    def _bound(self, waiting: dict[str, Any], counter: str) -> None:
        if len(waiting) > self._max_waiting:
            del waiting[next(iter(waiting))]
            self._drop(counter)

    def _drop(self, counter: str) -> None:
        self._dropped[counter] += 1


def _turned(pair: PairedScore) -> PairedScore:
    return PairedScore(request_id=pair.request_id, stable=pair.candidate, candidate=pair.stable)


def _plausible(counts: VariantCounts) -> bool:
    return (
        len(counts.latency) == NUM_BUCKETS
        and min(counts.latency) >= 0
        and 0 <= counts.errors <= counts.requests
        and counts.units >= 0
        and sum(counts.latency) <= counts.requests
        and len(counts.failed_names) <= (counts.failed_units or 0) <= counts.errors
    )


def _log_loss(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    clipped = np.clip(scores, _CLIP, 1 - _CLIP)
    return np.asarray(-np.where(labels == 1, np.log(clipped), np.log1p(-clipped)))


def _squared_error(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.asarray((scores - labels) ** 2)
