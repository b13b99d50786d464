"""Synthetic live traffic: what a gateway would report under a policy, with effects one states."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass

import numpy as np

from heliostat.rollout.evidence import (
    LATENCY_EDGES_MS,
    EvidenceReport,
    PairedScore,
    VariantCounts,
)
from heliostat.rollout.policy import NUM_SLOTS, ModelPolicy, Variant


@dataclass(frozen=True, kw_only=True, slots=True)
class Behaviour:
    """How one version behaves."""

    error_ratio: float = 0.0
    latency_ms: float = 4.0
    """Median; lognormal around it."""

    latency_sigma: float = 0.4
    noise: float = 0.3
    """Standard deviation of what its scores get wrong, in logits."""

    informed: bool = True
    """Whether its scores know anything of the row, or were trained on shuffled labels."""


class Traffic:
    """One gateway's requests, second by second; each request has a unit of its own."""

    def __init__(
        self,
        behaviours: dict[str, Behaviour],
        *,
        requests_per_s: float = 250.0,
        label_delay_s: int = 2,
        seed: int = 0,
        gateway: str = "gateway-1",
    ) -> None:
        """Begin without having seen anything.

        Args:
            behaviours: By version.
            requests_per_s: Mean of a Poisson number per second.
            label_delay_s: Seconds from a request to its label.
            seed: The same seed gives the same traffic under the same policies.
            gateway: Id of the gateway process; a restarted one needs a new id.
        """
        self._behaviours = behaviours
        self._gateway = gateway
        self._rate = requests_per_s
        self._random = np.random.default_rng(seed)
        self._late: deque[list[tuple[str, float]]] = deque([] for _ in range(label_delay_s))
        self._sequence = 0
        self._sent = 0

    def second(
        self, policy: ModelPolicy, epoch: int
    ) -> tuple[EvidenceReport, list[tuple[str, float]]]:
        """Let one second of requests pass; returns its report and the labels that arrive."""
        number = int(self._random.poisson(self._rate))
        owners = np.frombuffer(policy.slots, dtype=np.uint8)[
            self._random.integers(NUM_SLOTS, size=number)
        ]
        counts = tuple(
            self._counts(variant, int((owners == index).sum()))
            for index, variant in enumerate(policy.variants)
        )
        report = EvidenceReport(
            gateway=self._gateway,
            sequence=self._sequence,
            model=policy.model,
            rollout_id=policy.rollout_id,
            epoch=epoch,
            counts=tuple(item for item in counts if item.requests),
            pairs=self._pairs(policy, number),
            stable=policy.stable.version,
        )
        self._sequence += 1
        return report, self._late.popleft()

    def _counts(self, variant: Variant, requests: int) -> VariantCounts:
        behaviour = self._behaviours[variant.version]
        errors = int(self._random.binomial(requests, behaviour.error_ratio))
        times_ms = behaviour.latency_ms * np.exp(
            behaviour.latency_sigma * self._random.standard_normal(requests - errors)
        )
        latency = [0] * (len(LATENCY_EDGES_MS) + 1)
        for time_ms in times_ms:
            latency[bisect_left(LATENCY_EDGES_MS, time_ms)] += 1
        return VariantCounts(
            version=variant.name,
            requests=requests,
            errors=errors,
            units=requests,
            latency=tuple(latency),
            failed_units=errors,
        )

    def _pairs(self, policy: ModelPolicy, number: int) -> tuple[PairedScore, ...]:
        truth = -0.9 + self._random.standard_normal(number)
        happened = self._random.random(number) < _probability(truth)
        scores = []
        others = [item for item in policy.variants if item.role in ("candidate", "previous")]
        for version in (policy.stable, *(others or [policy.stable])):
            behaviour = self._behaviours[version.version]
            known = truth if behaviour.informed else np.full(number, -0.7)
            wrong = behaviour.noise * self._random.standard_normal(number)
            scores.append(_probability(known + wrong))
        names = [f"request-{self._sent + offset}" for offset in range(number)]
        self._sent += number
        self._late.append(
            [(name, float(label)) for name, label in zip(names, happened, strict=True)]
        )
        if not policy.paired:
            return ()
        return tuple(
            PairedScore(request_id=name, stable=float(stable), candidate=float(candidate))
            for name, stable, candidate in zip(names, *scores, strict=True)
        )


def _probability(logits: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-logits)))
