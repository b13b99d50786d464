"""Planned tests and unit metrics against published tables, simulation and plain regression."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from heliostat.errors import ConfigError
from heliostat.stats import planned, units


@pytest.mark.parametrize(
    ("spending", "table"),
    [
        ("obrien_fleming", [4.877, 3.357, 2.680, 2.290, 2.031]),
        ("pocock", [2.438, 2.427, 2.410, 2.397, 2.386]),
    ],
)
def test_group_sequential_bounds_are_those_of_the_table(spending, table):
    """Five even looks at two-sided 5 %, as tabulated for Lan and DeMets' two functions."""
    found = planned.bounds([0.2, 0.4, 0.6, 0.8, 1.0], 0.05, spending)

    assert found == pytest.approx(table, abs=0.002)


def test_all_looks_together_use_up_alpha():
    """Oracle: 200,000 random walks, looks at uneven times."""
    times = np.array([0.3, 0.45, 1.0])
    steps = np.sqrt(np.diff([0.0, *times]))
    walks = (np.random.default_rng(1).standard_normal((200_000, 3)) * steps).cumsum(axis=1)
    beyond = np.abs(walks / np.sqrt(times)) > planned.bounds(times.tolist(), 0.05)

    assert beyond.any(axis=1).mean() == pytest.approx(0.05, abs=0.002)


def test_the_sample_size_gives_the_power():
    """Oracle: 20,000 simulated z-tests at the size it names."""
    size = planned.units_needed(effect=0.2, deviation=1.0, alpha=0.05, power=0.9)
    means = np.random.default_rng(2).normal([0.2, 0.0], 1 / np.sqrt(size), (20_000, 2))
    z = (means[:, 0] - means[:, 1]) / np.sqrt(2 / size)

    assert (np.abs(z) > scipy_stats.norm.isf(0.025)).mean() == pytest.approx(0.9, abs=0.01)


def test_looks_that_do_not_rise_are_refused():
    """With the value and the rule."""
    with pytest.raises(ConfigError, match="must rise from above 0 to at most 1"):
        planned.bounds([0.5, 0.5], 0.05)


def test_a_ratio_of_clustered_requests_has_the_spread_that_repeating_shows():
    """Oracle: 4,000 repetitions; taking requests as independent would say half of it."""
    random = np.random.default_rng(3)
    values, errors, naive = [], [], []
    for _ in range(4_000):
        requests = random.geometric(0.1, 200)
        failed = random.binomial(requests, random.beta(0.5, 4.5, 200))
        found = units.ratio(units.Sums.of(failed, requests))
        values.append(found.value)
        errors.append(found.standard_error)
        naive.append(np.sqrt(found.value * (1 - found.value) / requests.sum()))

    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.05)
    assert np.mean(naive) < 0.5 * np.std(values)


def test_adjusting_for_the_past_keeps_the_effect_and_narrows_it():
    """Oracle: numpy's least squares with one slope and one mean per version."""
    random = np.random.default_rng(4)
    before = random.normal(5, 2, 3_000)
    group = np.repeat([1, 0], 1_500)
    metric = before + 0.1 * group + random.normal(0, 1, 3_000)
    arms = [
        units.Sums.of(metric[group == g][:700], before[group == g][:700]).merge(
            units.Sums.of(metric[group == g][700:], before[group == g][700:])
        )
        for g in (1, 0)
    ]
    found = units.adjusted_difference(*arms)
    design = np.stack([group, 1 - group, before], axis=1)
    coefficients = np.linalg.lstsq(design, metric, rcond=None)[0]

    assert found.value == pytest.approx(coefficients[0] - coefficients[1])
    plain = np.sqrt(metric[group == 1].var(ddof=1) / 1_500 + metric[group == 0].var(ddof=1) / 1_500)
    assert found.standard_error < 0.5 * plain


def test_too_few_units_estimate_nothing():
    """Not a number, rather than a wrong one."""
    assert np.isnan(units.ratio(units.Sums.of([1], [2])).standard_error)
    assert np.isnan(units.adjusted_difference(units.Sums(), units.Sums()).value)
