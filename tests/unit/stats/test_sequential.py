"""Each method against an independent oracle, and its false alarms counted by simulation."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import integrate
from scipy import stats as scipy_stats

from heliostat.errors import ConfigError
from heliostat.stats import harm, means, proportions, quantiles, srm


def at_most(alarms, trials, alpha):
    """Whether so many alarms are plausible at a true rate of at most alpha (one in 10,000)."""
    return scipy_stats.binom.sf(alarms - 1, trials, alpha) > 1e-4


@pytest.mark.parametrize("share", [0.001, 0.05, 0.5, 0.97])
@pytest.mark.parametrize("prior", [proportions.RARE, (19.0, 1.0), (1.0, 1.0)])
def test_evidence_against_a_true_share_has_mean_one(share, prior):
    """Oracle: the sum over the whole binomial distribution."""
    events = np.arange(201)
    log_chances = scipy_stats.binom.logpmf(events, 200, share)

    mean = np.sum(np.exp(log_chances + proportions.log_e(events, 200, share, prior)))

    assert mean == pytest.approx(1.0, rel=1e-9)


def test_the_mixture_equals_its_integral():
    """Oracle: numeric integration of the likelihood ratio over the Beta prior."""
    expected, _ = integrate.quad(
        lambda p: (p / 0.02) ** 3 * ((1 - p) / 0.98) ** 397 * scipy_stats.beta.pdf(p, 0.5, 50),
        0, 1, limit=500,
    )  # fmt: skip

    assert float(proportions.log_e(3, 400, 0.02)) == pytest.approx(math.log(expected), rel=1e-6)


def test_bounds_of_a_proportion_are_where_the_evidence_reaches_its_limit():
    """And they are open at 0 and 1 where no evidence can be."""
    low, high = proportions.bounds([0, 7, 350, 0], [350, 350, 350, 0], 0.01)

    assert (low[0], high[2], low[3], high[3]) == (0.0, 1.0, 0.0, 1.0)
    for events, share in ((0, high[0]), (7, low[1]), (7, high[1]), (350, low[2])):
        assert float(proportions.log_e(events, 350, share)) == pytest.approx(math.log(100))


def test_the_true_proportion_is_hardly_ever_outside_its_bounds():
    """2,000 streams of 5,000 trials, looked at 100 times each."""
    random = np.random.default_rng(1)
    for share in (0.002, 0.02):
        events = random.binomial(50, share, size=(2_000, 100)).cumsum(axis=1)
        trials = np.arange(1, 101) * 50
        alarms = (proportions.log_e(events, trials, share) >= math.log(20)).any(axis=1).sum()
        assert at_most(alarms, 2_000, 0.05)


def test_the_true_quantile_is_hardly_ever_outside_its_bounds():
    """400 streams of lognormal times in coarse buckets, looked at 20 times each."""
    random = np.random.default_rng(2)
    edges = [round(0.05 * 1.1**i, 6) for i in range(140)]
    true = 4 * math.exp(0.4 * scipy_stats.norm.ppf(0.95))
    alarms = 0
    for _ in range(400):
        times = 4 * np.exp(0.4 * random.standard_normal((20, 100)))
        counts = np.zeros(len(edges) + 1, dtype=int)
        outside = False
        for some in times:
            counts += np.bincount(np.searchsorted(edges, some), minlength=len(edges) + 1)
            low, high = quantiles.bounds(counts, edges, 0.95, 0.05)
            outside = outside or not low <= true <= high
        alarms += outside
    assert at_most(alarms, 400, 0.05)


def test_harm_of_lone_errors_matches_a_plain_product_of_likelihood_ratios():
    """Oracle: binomial probabilities from scipy, tick by tick, far apart and at small shares."""
    ticks = [(1, 2, 10, 90), (0, 5, 15, 85), (1, 0, 19, 81), (0, 3, 0, 100)]
    expected = 0.0
    for ratio, weight in zip(harm.RATE_RATIOS, harm.WEIGHTS, strict=True):
        product = weight
        for x1, x0, n1, n0 in ticks[:3]:
            share = n1 / (n1 + n0)
            theta = share * ratio / (share * ratio + 1 - share)
            product *= scipy_stats.binom.pmf(x1, x1 + x0, theta)
            product /= scipy_stats.binom.pmf(x1, x1 + x0, share)
        expected += product
    seen = harm.Thinned.none()
    for number, (x1, x0, n1, n0) in enumerate(ticks):
        seen = seen.add(10.0 * number, requests=n1, errors=x1, stable_requests=n0, stable_errors=x0)

    assert float(seen.log_e()) == pytest.approx(math.log(expected))
    assert harm.Thinned.from_dict(json.loads(json.dumps(seen.to_dict()))) == seen


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5])
def test_harm_has_mean_one_under_an_equal_candidate(share):
    """Oracle: the sum over all splits of three errors in one tick, and none after."""
    total = 0.0
    for x1 in range(4):
        chance = scipy_stats.binom.pmf(x1, 3, share)
        seen = harm.Thinned.none().add(
            0.0,
            requests=1000 * share,
            errors=x1,
            stable_requests=1000 * (1 - share),
            stable_errors=3 - x1,
        )
        total += chance * float(np.exp(seen.factors) @ harm.WEIGHTS)

    assert total == pytest.approx(1.0) if share >= 0.2 else total <= 1.0


@pytest.mark.parametrize("count", [500, 2_000, 50_000])
@pytest.mark.parametrize("alpha", [0.005, 0.05])
def test_the_half_width_is_safe_and_close_to_the_exact_mixture(count, alpha):
    """Oracle: numeric integration of the half-normal mixture that the formula bounds."""
    log_two_alpha = math.log(2 * alpha)
    rho = math.sqrt((-2 * log_two_alpha + math.log(1 - 2 * log_two_alpha)) / means.TUNED_AT)

    def evidence(total):
        centre = total / (count + 1 / rho**2)
        top = total * centre - centre**2 * count / 2
        value, _ = integrate.quad(
            lambda rate: math.exp(rate * total - rate**2 * count / 2 - top)
            * 2 * scipy_stats.norm.pdf(rate, 0, rho),
            0, 12 * max(rho, centre), limit=500, points=[centre],
        )  # fmt: skip
        return math.log(value) + top

    total = count * float(means.half_width(count, 1.0, alpha))

    assert evidence(total) >= math.log(1 / alpha) - 1e-9
    assert evidence(0.93 * total) < math.log(1 / alpha)


def test_the_true_mean_is_hardly_ever_beyond_its_bound():
    """1,000 streams of 5,000 skewed values, looked at after each from the burn-in on."""
    random = np.random.default_rng(5)
    values = random.exponential(0.3, size=(1_000, 5_000)) - 0.3
    count = np.arange(1, 5_001)
    mean = values.cumsum(axis=1) / count
    square = (values**2).cumsum(axis=1) / count
    width = means.half_width(count, np.sqrt(square - mean**2), 0.05)
    for sign in (1, -1):
        wrong = (sign * mean > width)[:, means.BURN_IN :].any(axis=1).sum()
        assert at_most(wrong, 1_000, 0.05)


def test_moments_merge_in_any_order():
    """Oracle: numpy over all values at once."""
    values = np.random.default_rng(6).normal(3, 2, size=1_000)
    parts = [means.Moments.of(part) for part in np.split(values, [1, 1, 17, 600])]
    forward, backward = means.Moments(), means.Moments()
    for part in parts:
        forward, backward = forward.merge(part), part.merge(backward)

    for merged in (forward, backward):
        assert merged.count == 1_000
        assert merged.mean == pytest.approx(values.mean())
        assert merged.deviation == pytest.approx(values.std(ddof=1))


def test_too_few_values_bound_nothing():
    """Not even equal ones, whose deviation is zero."""
    assert means.bounds(means.Moments.of([0.1] * 499), 0.01) == (-math.inf, math.inf)


def test_evidence_against_a_correct_split_has_mean_one():
    """Oracle: the sum over the whole multinomial distribution of 40 units on three variants."""
    shares = np.array([0.7, 0.2, 0.1])
    total = 0.0
    for first in range(41):
        for second in range(41 - first):
            counts = [first, second, 40 - first - second]
            chance = scipy_stats.multinomial.pmf(counts, 40, shares)
            total += chance * math.exp(float(srm.log_e(counts, shares)))

    assert total == pytest.approx(1.0, rel=1e-9)


def test_a_correct_split_hardly_ever_raises_an_alarm_where_chi_squared_does():
    """4,000 streams, 500 looks each; the usual test at the same level alarms many times over."""
    random = np.random.default_rng(7)
    candidate = random.binomial(20, 0.05, size=(4_000, 500)).cumsum(axis=1)
    units = np.arange(1, 501) * 20
    counts = np.stack([units - candidate, candidate], axis=-1)

    alarms = (srm.log_e(counts, [0.95, 0.05]) >= math.log(100)).any(axis=1).sum()
    z = (candidate - 0.05 * units) / np.sqrt(units * 0.05 * 0.95)
    naive = (2 * scipy_stats.norm.sf(abs(z)) < 0.01).any(axis=1).mean()

    assert at_most(alarms, 4_000, 0.01)
    assert naive > 0.05


def test_a_wrong_split_is_found():
    """The weighted hash of another product gives a 10 % arm 5.55 % of the units."""
    random = np.random.default_rng(8)
    candidate = random.binomial(10, 0.0555, size=(200, 300)).cumsum(axis=1)
    units = np.arange(1, 301) * 10
    counts = np.stack([units - candidate, candidate], axis=-1)

    found = (srm.log_e(counts, [0.9, 0.1]) >= math.log(1000)).any(axis=1).mean()

    assert found > 0.99


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: proportions.bounds(1, 2, 0.0), "stats.alpha = 0.0: must lie between 0 and 1"),
        (lambda: means.half_width(1, 1, 0.7), "stats.alpha = 0.7: must lie between 0 and 0.5"),
        (
            lambda: quantiles.bounds([1, 1], [1.0], 1.0, 0.1),
            "stats.quantile = 1.0: must lie between 0 and 1",
        ),
        (
            lambda: quantiles.bounds([1], [1.0], 0.5, 0.1),
            "stats.counts = 1: needs one more than edges",
        ),
    ],
)
def test_arguments_without_meaning_are_refused(call, message):
    """With the value and the rule."""
    with pytest.raises(ConfigError) as caught:
        call()
    assert str(caught.value) == message
