"""Evidence that a candidate makes more errors, while its share changes and errors come in bursts."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, xlogy

Array = NDArray[np.float64]

RATE_RATIOS: Array = np.array([1.5, 2.0, 4.0, 10.0, 25.0])
"""How many times more errors a harmful candidate might make: the mixture's grid, shape (K,)."""

WEIGHTS: Array = np.array([0.08, 0.17, 0.30, 0.20, 0.25])
"""What the mixture bets on each; its sum is 1. Any choice is valid, this one is quick at 4x and 20x."""

BURST_S = 2.0
"""Errors closer together than this may have one cause, so they count once."""

_BOTH_FROM_SHARE = 0.2
"""From this share on, a burst of either version counts once; below, stable's errors all count."""

_SURE = 1.65
"""Standard deviations by which errors must follow upon errors before they count as clustered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Thinned:
    """Errors thinned to one per BURST_S, as sums that a decision needs; shape (...,) each.

    After an error nothing is counted for BURST_S. The skipped time depends on the past alone,
    so what is left is as fair a test as all would be. What is skipped tells how far errors
    come in clusters, which `log_e` takes into account.
    """

    factors: Array
    """Summed log likelihood ratios, shape (..., K)."""

    until_s: Array
    """Nothing is counted before this time."""

    events: Array
    """Errors of the candidate that were counted; a part of one where both versions erred."""

    stable_events: Array
    requests: Array
    """Requests of the candidate until an error was counted."""

    stable_requests: Array
    skipped_errors: Array
    skipped_requests: Array
    """The candidate's, in the time that was not counted."""

    @staticmethod
    def none(shape: tuple[int, ...] = ()) -> Thinned:
        """Nothing seen yet."""
        zeros = {item.name: np.zeros(shape) for item in fields(Thinned)}
        return Thinned(**{**zeros, "factors": np.zeros((*shape, RATE_RATIOS.size))})

    def add(
        self,
        at_s: ArrayLike,
        *,
        requests: ArrayLike,
        errors: ArrayLike,
        stable_requests: ArrayLike,
        stable_errors: ArrayLike,
    ) -> Thinned:
        """Count what both versions did around one moment; moments must not go back.

        Under the claim "not more errors than stable" an error falls on the candidate with at
        most its share of the requests. Error rates that drift for both versions alike cancel.
        With the share *observed* the claim stays valid: the count is then hypergeometric,
        which the binomial dominates in convex order (Hoeffding 1963, theorem 4). Counting an
        error of the candidate less only lowers the evidence.

        Source: derived from Lindon & Malek, "Anytime-Valid Inference for Multinomial Count
        Data", NeurIPS 2022; the thinning is that of a counter with dead time.
        """
        n1, x1 = np.asarray(requests, float), np.asarray(errors, float)
        n0, x0 = np.asarray(stable_requests, float), np.asarray(stable_errors, float)
        now = np.asarray(at_s, float)
        live = now >= self.until_s
        rho = n1 / np.maximum(n1 + n0, 1.0)
        told = live & (rho > 0) & (rho < 1)
        rho = np.where(told, rho, 0.5)
        both = told & (rho >= _BOTH_FROM_SHARE)
        total = np.maximum(x1 + x0, 1.0)
        event = np.where(both, x1 / total, np.minimum(x1, 1.0))
        stable = np.where(both, x0 / total, x0)
        theta = rho[..., None] * RATE_RATIOS
        theta = theta / (theta + 1 - rho[..., None])
        up, down = theta / rho[..., None], (1 - theta) / (1 - rho[..., None])
        once = np.log(
            np.where(
                (x1 + x0 > 0)[..., None], event[..., None] * up + stable[..., None] * down, 1.0
            )
        )
        all_stable = xlogy(event[..., None], up) + xlogy(stable[..., None], down)
        factors = np.where(told[..., None], np.where(both[..., None], once, all_stable), 0.0)
        begins = live & ((x1 > 0) | (both & (x0 > 0)))
        counted = np.where(live, np.where(x1 > 0, event, 0.0), 0.0)
        in_time = np.where(live, np.where(x1 > 0, np.minimum(n1, 1.0), n1), 0.0)
        return Thinned(
            factors=self.factors + factors,
            until_s=np.where(begins, now + BURST_S, self.until_s),
            events=self.events + np.where(told, counted, 0.0),
            stable_events=self.stable_events + np.where(told, stable, 0.0),
            requests=self.requests + in_time,
            stable_requests=self.stable_requests + np.where(live, n0, 0.0),
            skipped_errors=self.skipped_errors + x1 - np.where(live, np.minimum(x1, 1.0), 0.0),
            skipped_requests=self.skipped_requests + n1 - in_time,
        )

    def clustering(self) -> Array:
        """How many errors follow upon each counted one beyond what chance explains; at least 0."""
        usual = self.events / np.maximum(self.requests, 1.0)
        expected = usual * self.skipped_requests
        surplus = self.skipped_errors - expected - _SURE * np.sqrt(expected)
        return np.asarray(np.maximum(0.0, surplus / np.maximum(self.events, 1.0)))

    def log_e(self, requests_per_unit: ArrayLike = 1.0) -> Array:
        """Log evidence that the candidate makes more errors; at least -ln(alpha) means harm.

        For errors that are independent at a distance of BURST_S, the chance that a candidate
        as good as stable ever reaches ``-ln(alpha)`` is at most alpha. Where the candidate's
        errors are seen to come in clusters, they may come per time and not per request: then
        a version with a small share has as many bursts as one with a large share, and the
        evidence is the smaller one of both views. For bursts of one version alone this is no
        proof: simulations hold the level for short and rare ones only (adr/0010).

        Args:
            requests_per_unit: Mean requests of one unit, at least 1. All errors of a unit may
                have one cause; a geometric number of requests then clusters by 2 r - 1, which
                divides the evidence. A power of at most 1 of an e-value is one again.
        """
        weights = np.log(WEIGHTS)
        plain = logsumexp(self.factors + weights, axis=-1)
        odds = np.maximum(self.requests, 1e-9) / np.maximum(self.stable_requests, 1e-9)
        extra = self.clustering()
        scale = np.maximum(1.0, (1 + extra / odds) / (1 + extra))
        share = (odds * scale / (1 + odds * scale))[..., None]
        theta = share * RATE_RATIOS / (share * RATE_RATIOS + 1 - share)
        per_time = xlogy(self.events[..., None], theta / share)
        per_time = per_time + xlogy(
            (self.stable_events / scale)[..., None], (1 - theta) / (1 - share)
        )
        wary = np.where(scale > 1, logsumexp(per_time + weights, axis=-1), plain)
        divisor = np.maximum(1.0, 2 * np.asarray(requests_per_unit, float) - 1)
        return np.asarray(np.minimum(plain, wary) / divisor)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values of one rollout's sums; `from_dict` gives equal ones back."""
        return {item.name: getattr(self, item.name).tolist() for item in fields(Thinned)}

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> Thinned:
        """Build the sums again from `to_dict`'s values."""
        return Thinned(**{key: np.asarray(value, float) for key, value in raw.items()})

    def __eq__(self, other: object) -> bool:
        """Whether all sums are equal."""
        return isinstance(other, Thinned) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]


def log_factors(
    candidate_errors: ArrayLike,
    stable_errors: ArrayLike,
    candidate_share: ArrayLike,
    rate_ratios: ArrayLike = RATE_RATIOS,
) -> Array:
    """Log likelihood ratios of one tick for errors that are all independent, shape (..., K).

    The yardstick that `Thinned` is measured against; it calls a burst harm.

    >>> log_factors(1, 0, 0.5).round(3)[:3]
    array([0.182, 0.288, 0.47 ])
    """
    x1, x0 = (np.asarray(x, float)[..., None] for x in (candidate_errors, stable_errors))
    ratios = np.asarray(rate_ratios, float)
    rho = np.asarray(candidate_share, float)[..., None]
    told = (rho > 0) & (rho < 1)
    rho = np.where(told, rho, 0.5)
    theta = rho * ratios / (rho * ratios + 1 - rho)
    factors = xlogy(x1, theta / rho) + xlogy(x0, (1 - theta) / (1 - rho))
    return np.asarray(np.where(told, factors, 0.0))
