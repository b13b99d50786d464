"""Evidence that a candidate makes more errors, while its share of traffic changes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, xlog1py, xlogy

RATE_RATIOS: NDArray[np.float64] = np.array([1.5, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0])
"""How many times more errors a harmful candidate might make: the mixture's grid, shape (K,)."""


def log_factors(
    candidate_errors: ArrayLike, stable_errors: ArrayLike, candidate_share: ArrayLike
) -> NDArray[np.float64]:
    """Log likelihood ratios of one tick, one per rate ratio; add them up over ticks and gateways.

    Under the claim "not more errors than stable" each error of the tick falls on the
    candidate with at most its share of the requests. Drifting error rates that move both
    versions alike cancel. With the share *observed* in the tick the claim stays valid:
    the count is then hypergeometric, which the binomial dominates in convex order
    (Hoeffding 1963, theorem 4).

    Source: derived from Lindon & Malek, "Anytime-Valid Inference for Multinomial Count
    Data", NeurIPS 2022.

    Assumes errors to be independent given the version: a burst counts as many errors.

    Args:
        candidate_errors: Errors among the candidate's requests in the tick.
        stable_errors: Errors among the stable version's requests in the same tick.
        candidate_share: Candidate's requests of both versions' requests in the tick. At 0
            and 1 the tick says nothing.

    Returns:
        Shape (..., K).

    >>> log_factors(1, 0, 0.5).round(3)[:3]
    array([0.182, 0.288, 0.405])
    """
    x1 = np.asarray(candidate_errors, float)[..., None]
    x0 = np.asarray(stable_errors, float)[..., None]
    rho = np.asarray(candidate_share, float)[..., None]
    told = (rho > 0) & (rho < 1)
    rho = np.where(told, rho, 0.5)
    theta = rho * RATE_RATIOS / (rho * RATE_RATIOS + 1 - rho)
    factors = xlogy(x1, theta / rho) + xlog1py(x0, -theta) - xlog1py(x0, -rho)
    return np.asarray(np.where(told, factors, 0.0))


def log_e(summed_factors: ArrayLike) -> NDArray[np.float64]:
    """Log evidence that the candidate makes more errors; at least -ln(alpha) means harm.

    The chance that a candidate as good as stable ever reaches ``-ln(alpha)`` is at most alpha.

    Args:
        summed_factors: Sum of `log_factors` so far, shape (..., K).

    >>> bool(log_e(log_factors(12, 0, 0.05)) > np.log(1000))
    True
    """
    summed = np.asarray(summed_factors, float)
    return np.asarray(logsumexp(summed, axis=-1) - np.log(RATE_RATIOS.size))
