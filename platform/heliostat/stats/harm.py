"""Evidence that a candidate makes more errors, while its share changes and errors come in bursts."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, xlogy

Array = NDArray[np.float64]

RATE_RATIOS: Array = np.array([1.5, 2.0, 4.0, 8.0, 20.0])
"""How many times more errors a harmful candidate might make: the mixture's grid, shape (K,)."""

WEIGHTS: Array = np.array([0.04, 0.06, 0.34, 0.06, 0.50])
"""What the mixture bets on each; its sum is 1. Any choice is valid, this one is quick at 4x and 20x."""

BURST_S = 2.0
"""Errors closer together than this may have one cause, so they count once."""

FULL_S = 5.0
"""Only so long after a counted error does the next one count in full; in between, in part."""

QUIET_S = 3.0
"""Errors with no longer pause than this between them are one spell."""

SPELL_S = 12.0
"""A spell that lasts longer is no burst: from here on its errors count once per BURST_S."""

_BOTH_FROM_SHARE = 0.2
"""From this share on, a burst of either version counts once; below, stable's errors all count."""

_BURSTS_BEFORE = 0.02
"""Bursts of stable that are assumed before any was seen: matters where stable hardly errs."""

_LEAST_BURST = 4
"""Errors of stable in one report that may be a burst, if that is far more than usual."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Thinned:
    """Errors of two versions, bursts counted once, as sums that a decision needs; shape (...,) each.

    After an error nothing is counted for BURST_S, and less than in full until FULL_S. How much
    counts depends on the past alone, so what is left is as fair a test as all would be. What is
    left out tells how far errors come in clusters, which `log_e` takes into account.
    """

    factors: Array
    """Summed log likelihood ratios, shape (..., K)."""

    full_s: Array
    """From this time on an error counts in full."""

    spell_s: Array
    """When the present spell of errors began, if it has not ended by `quiet_s`."""

    quiet_s: Array
    events: Array
    """Errors of the candidate that were counted; a part of one where both versions erred."""

    stable_events: Array
    """Stable's errors outside its bursts, as far as they were counted."""

    stable_bursts: Array
    requests: Array
    """Requests of the candidate until an error was counted."""

    stable_requests: Array
    skipped_errors: Array
    skipped_requests: Array
    """The candidate's, in the time that was not counted."""

    calm_errors: Array
    calm_requests: Array
    """All of stable's outside its bursts."""

    burst_s: Array
    """Until when a report of stable that is full of errors belongs to the burst before."""

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
        error of the candidate less only lowers the evidence, and so does raising a likelihood
        ratio to a power of at most 1 that is known beforehand (Jensen).

        Source: derived from Lindon & Malek, "Anytime-Valid Inference for Multinomial Count
        Data", NeurIPS 2022; the thinning is that of a counter with dead time.
        """
        n1, x1 = np.asarray(requests, float), np.asarray(errors, float)
        n0, x0 = np.asarray(stable_requests, float), np.asarray(stable_errors, float)
        now = np.asarray(at_s, float)
        rho = n1 / np.maximum(n1 + n0, 1.0)
        told = (rho > 0) & (rho < 1)
        rho = np.where(told, rho, 0.5)
        both = told & (rho >= _BOTH_FROM_SHARE)
        part = self._part(now)
        erred = (x1 > 0) | (both & (x0 > 0))
        total = np.maximum(x1 + x0, 1.0)
        event = np.where(both, x1 / total, np.minimum(x1, 1.0))
        stable = np.where(both, x0 / total, x0)
        factors = part[..., None] * _one_tick(rho, both, x1 + x0 > 0, event, stable)
        counted = np.where(told, event, 0.0) * part
        in_time = np.where(x1 > 0, np.minimum(n1, 1.0), n1) * part
        usual = n0 * (self.calm_errors + 0.5) / np.maximum(self.calm_requests + n0, 1.0)
        burst = (x0 >= _LEAST_BURST) & (x0 > usual + 4 * np.sqrt(usual) + 2)
        return Thinned(
            factors=self.factors + np.where(told[..., None], factors, 0.0),
            full_s=np.where(erred & (part > 0), now + FULL_S, self.full_s),
            spell_s=np.where(erred & (now > self.quiet_s), now, self.spell_s),
            quiet_s=np.where(erred, now + QUIET_S, self.quiet_s),
            events=self.events + counted,
            stable_events=self.stable_events + np.where(told & ~burst, stable, 0.0) * part,
            stable_bursts=self.stable_bursts + (burst & (now >= self.burst_s)),
            requests=self.requests + in_time,
            stable_requests=self.stable_requests + n0 * part,
            skipped_errors=self.skipped_errors + x1 - np.minimum(x1, 1.0) * part,
            skipped_requests=self.skipped_requests + n1 - in_time,
            calm_errors=self.calm_errors + np.where(burst, 0.0, x0),
            calm_requests=self.calm_requests + np.where(burst, 0.0, n0),
            burst_s=np.where(burst, now + QUIET_S, self.burst_s),
        )

    def _part(self, now: Array) -> Array:
        """How much of an error counts now, 0 to 1; known before it happens."""
        lasts = (now <= self.quiet_s) & (now - self.spell_s >= SPELL_S)
        rest_s = np.maximum(0.0, self.full_s - now)
        part = np.maximum(0.0, 1 - rest_s / (FULL_S - BURST_S))
        return np.asarray(np.where(lasts & (rest_s <= FULL_S - BURST_S), 1.0, part))

    def clustered(self) -> Array:
        """How many of the counted errors drew others after them beyond what is usual."""
        usual = self.events / np.maximum(self.requests, 1.0)
        expected = usual * self.skipped_requests
        return np.asarray(np.clip(self.skipped_errors - expected, 0.0, self.events))

    def log_e(self, requests_per_unit: ArrayLike = 1.0) -> Array:
        """Log evidence that the candidate makes more errors; at least -ln(alpha) means harm.

        For errors that are independent at a distance of FULL_S, the chance that a candidate
        as good as stable ever reaches ``-ln(alpha)`` is at most alpha (Ville). Errors that are
        seen to cluster may come per time and not per request: a version with a small share then
        has as many bursts as one with a large share. So the evidence is the smaller one of that
        and of what is left in a wary view. There a clustered error of the candidate stands
        against the bursts of stable, as if both versions had equally many; and a lone one
        against stable's lone ones, which count for little until stable has shown some.

        For bursts of one version alone this is no proof; adr/0010 says which were counted.

        Args:
            requests_per_unit: Mean requests of one unit, at least 1, where errors are counted
                and not units. All errors of a unit may have one cause; a geometric number of
                requests then clusters by 2 r - 1, which divides the evidence. A power of at
                most 1 of an e-value is one again.
        """
        plain = logsumexp(self.factors + np.log(WEIGHTS), axis=-1)
        odds = np.maximum(self.requests, 1e-9) / np.maximum(self.stable_requests, 1e-9)
        grouped = self.clustered()
        shown = self.stable_events + _BURSTS_BEFORE
        per_request = np.maximum(odds, (self.stable_events * odds + _BURSTS_BEFORE) / shown)
        lone = _log_mixture(self.events - grouped, self.stable_events, per_request)
        bursts = _log_mixture(grouped, self.stable_bursts, np.maximum(odds, 1.0))
        divisor = np.maximum(1.0, 2 * np.asarray(requests_per_unit, float) - 1)
        return np.asarray(np.minimum(plain, np.maximum(lone, bursts)) / divisor)

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


def _one_tick(rho: Array, both: Array, any_error: Array, event: Array, stable: Array) -> Array:
    """Log likelihood ratios of one moment; where `both`, the errors of both are one event."""
    theta = rho[..., None] * RATE_RATIOS
    theta = theta / (theta + 1 - rho[..., None])
    up, down = theta / rho[..., None], (1 - theta) / (1 - rho[..., None])
    once = np.log(
        np.where(any_error[..., None], event[..., None] * up + stable[..., None] * down, 1.0)
    )
    each = xlogy(event[..., None], up) + xlogy(stable[..., None], down)
    return np.asarray(np.where(both[..., None], once, each))


def _log_mixture(candidate: Array, stable: Array, odds: Array) -> Array:
    """Log of the mixture's evidence in two counts that should be as these odds."""
    share = (odds / (1 + odds))[..., None]
    theta = share * RATE_RATIOS / (share * RATE_RATIOS + 1 - share)
    factors = xlogy(candidate[..., None], theta / share)
    factors = factors + xlogy(stable[..., None], (1 - theta) / (1 - share))
    return np.asarray(logsumexp(factors + np.log(WEIGHTS), axis=-1))


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
