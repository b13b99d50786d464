"""Rate limits: the bucket's bound, and the division among replicas."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from heliostat.access.rates import Bucket, divide


@given(
    st.floats(0.5, 1000),
    st.integers(1, 50),
    st.lists(st.floats(0, 0.5), min_size=1, max_size=200),
)
def test_no_window_lets_more_through_than_burst_and_rate(
    rate: float, burst: int, gaps: list[float]
) -> None:
    """However the requests come."""
    bucket, now, passed = Bucket(rate, burst), 0.0, []
    for gap in gaps:
        now += gap
        if bucket.take(now) == 0:
            passed.append(now)
    for first, start in enumerate(passed):
        for number, end in enumerate(passed[first:], start=1):
            assert number <= burst + rate * (end - start) + 1e-6


@given(st.floats(0.5, 100), st.integers(1, 10), st.integers(0, 30))
def test_the_wait_it_names_is_enough(rate: float, burst: int, used: int) -> None:
    """A client that obeys Retry-After gets in."""
    bucket = Bucket(rate, burst)
    for _ in range(used):
        bucket.take(0.0)
    wait_s = bucket.take(0.0)
    assert wait_s >= 0
    assert wait_s == 0 or bucket.take(wait_s + 1e-9) == 0


@given(
    st.floats(0.1, 1e4),
    st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 1e4), min_size=1, max_size=8),
)
def test_shares_add_up_to_the_rate_and_serve_the_modest_first(
    rate: float, wanted: dict[str, float]
) -> None:
    """Nobody who wants no more than an equal share gets less than it wants."""
    shares = divide(rate, wanted)

    assert math.isclose(sum(shares.values()), rate, rel_tol=1e-9)
    assert min(shares.values()) >= 0
    fair = rate / len(wanted)
    assert all(shares[name] >= min(need, fair) - 1e-6 for name, need in wanted.items())
