"""Sample ratio mismatch: is traffic split as the weights say, at any time one looks."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln, xlogy

CONCENTRATION = 100.0
"""Weight of the Dirichlet prior around the planned shares: finds small mismatches sooner."""


def log_e(counts: ArrayLike, shares: ArrayLike) -> NDArray[np.float64]:
    """Log evidence that units do not split by the shares; at least -ln(alpha) is an alarm.

    The multinomial-Dirichlet mixture martingale: a correct split raises a false alarm with
    a chance of at most alpha over all looks together, where a repeated chi-squared test
    raises one almost surely.

    Source: Lindon & Malek, "Anytime-Valid Inference for Multinomial Count Data", NeurIPS 2022.

    Args:
        counts: Units (not requests) per variant, each counted once, shape (..., V).
        shares: Planned shares, each above 0, summing to 1, shape (V,).

    >>> bool(log_e([9_700, 300], [0.95, 0.05]) > np.log(1000))
    True
    >>> bool(log_e([9_480, 520], [0.95, 0.05]) > 0)
    False
    """
    x, theta = np.asarray(counts, dtype=np.float64), np.asarray(shares, dtype=np.float64)
    prior = CONCENTRATION * theta
    total = prior.sum()
    return np.asarray(
        gammaln(total)
        - gammaln(total + x.sum(axis=-1))
        + (gammaln(prior + x) - gammaln(prior)).sum(axis=-1)
        - xlogy(x, theta).sum(axis=-1)
    )
