"""Intervals for a share of events that hold at every moment, not only at a planned one."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special
from scipy.special import betaln, xlog1py, xlogy

from heliostat.config import require

RARE = (0.5, 50.0)
"""Beta prior for events that should be rare, such as errors: sharpest below 2 %."""

_HALVINGS = 40


def log_e(
    events: ArrayLike, trials: ArrayLike, share: ArrayLike, prior: tuple[float, float] = RARE
) -> NDArray[np.float64]:
    """Log evidence against the claim that each trial is an event with this probability.

    The beta-binomial mixture martingale: its expectation is at most 1 under the claim,
    after any number of trials and at any data-dependent moment, so it exceeds
    ``1 / alpha`` at some time with a chance of at most alpha (Ville's inequality).

    Source: Robbins, "Statistical methods related to the law of the iterated logarithm",
    Ann. Math. Stat. 41 (1970); as the beta-binomial mixture in Howard, Ramdas, McAuliffe,
    Sekhon, Ann. Stat. 49 (2021), arXiv 1810.08240.

    Args:
        events: Number of events, at most `trials`. The arguments broadcast together.
        trials: Number of independent trials.
        share: The claimed probability, 0 to 1.
        prior: Beta parameters of the mixture. Any is valid; a fitting one decides sooner.

    >>> round(float(log_e(0, 350, 0.02)), 3)
    6.029
    """
    events, trials, share = np.asarray(events), np.asarray(trials), np.asarray(share)
    mixture = _mixture(events, trials, prior)
    return np.asarray(mixture - xlogy(events, share) - xlog1py(trials - events, -share))


def _mixture(
    events: NDArray[np.float64], trials: NDArray[np.float64], prior: tuple[float, float]
) -> NDArray[np.float64]:
    """Log chance of the events under the mixture, the part of `log_e` without the claim."""
    a, b = prior
    return np.asarray(betaln(a + events, b + trials - events) - betaln(a, b))


def exact(events: int, trials: int, alpha: float) -> tuple[float, float]:
    """Interval of a probability after a number of trials that was planned before.

    Source: Clopper & Pearson, "The use of confidence or fiducial limits illustrated in the
    case of the binomial", Biometrika 26 (1934).

    >>> low, high = exact(0, 100, 0.01)
    >>> low, round(high, 4)
    (0.0, 0.0516)
    """
    low = special.betaincinv(events, trials - events + 1, alpha / 2) if events else 0.0
    high = (
        special.betaincinv(events + 1, trials - events, 1 - alpha / 2) if events < trials else 1.0
    )
    return float(low), float(high)


def bounds(
    events: ArrayLike,
    trials: ArrayLike,
    alpha: ArrayLike,
    prior: tuple[float, float] = RARE,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper bound of a probability, both right at all times at once.

    The chance that the true probability is ever outside is at most `alpha`, however
    often one looks. No trials give 0 and 1.

    Args:
        events: Number of events; broadcasts with `trials`.
        trials: Number of independent trials.
        alpha: Chance of ever being wrong, above 0 and below 1; broadcasts too.
        prior: See `log_e`.

    >>> low, high = bounds(0, 350, 0.01)
    >>> float(low), round(float(high), 4)
    (0.0, 0.016)
    """
    alphas = np.asarray(alpha, float)
    require(
        bool(np.all((alphas > 0) & (alphas < 1))),
        "stats.alpha",
        alpha,
        "must lie between 0 and 1",
    )
    events, trials, limit = np.broadcast_arrays(
        np.asarray(events, float), np.asarray(trials, float), -np.log(alphas)
    )
    centre = np.divide(events, trials, out=np.full(events.shape, 0.5), where=trials > 0)
    # Halving needs some hundred values of `log_e`, and only the claim differs among them.
    mixture, others = _mixture(events, trials, prior), trials - events

    def held(share: NDArray[np.float64]) -> NDArray[np.bool_]:
        return np.asarray(mixture - xlogy(events, share) - xlog1py(others, -share) < limit)

    edges = []
    for end in (0.0, 1.0):
        inside, outside = centre.copy(), np.full(events.shape, end)
        for _ in range(_HALVINGS):
            middle = (inside + outside) / 2
            good = held(middle)
            inside, outside = np.where(good, middle, inside), np.where(good, outside, middle)
        edges.append(np.where(held(np.full(events.shape, end)), end, outside))
    return edges[0], edges[1]
