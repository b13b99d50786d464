from __future__ import annotations

import itertools
import random
from collections import Counter

import numpy as np
import pytest

from heliostat.errors import ConfigError
from heliostat.stats.histograms import HASHED, TEXTS, Histogram, merged, of_numbers, of_texts


@pytest.mark.parametrize("seed", range(20))
def test_parts_add_up_to_the_whole_in_any_order(seed: int) -> None:
    """Numbers of every size and sign, missing ones, infinities; cut anywhere."""
    source = np.random.default_rng(seed)
    values = source.normal(size=2_000) * 10.0 ** source.integers(-15, 18, 2_000)
    values[source.random(2_000) < 0.1] = np.nan
    values[:4] = [np.inf, -np.inf, 0.0, -0.0]
    cuts = sorted(source.integers(0, 2_000, 4).tolist())
    parts = [of_numbers(part) for part in np.split(values, cuts)]
    random.Random(seed).shuffle(parts)

    assert merged(parts).to_dict() == of_numbers(values).to_dict()


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kinds", [TEXTS // 2, TEXTS, TEXTS + 1, 3 * TEXTS])
def test_texts_add_up_whether_counted_one_by_one_or_hashed(seed: int, kinds: int) -> None:
    """Also where each part has few texts and all together have too many."""
    source = random.Random(seed)
    words = [None if n == 0 else f"wörd {source.randrange(kinds)}" for n in range(3_000)]
    words += [f"wörd {n}" for n in range(kinds)]
    source.shuffle(words)
    cuts = [0, *sorted(source.randrange(len(words)) for _ in range(30)), len(words)]
    parts = [of_texts(Counter(words[low:high])) for low, high in itertools.pairwise(cuts)]

    whole = of_texts(Counter(words))
    assert merged(parts).to_dict() == whole.to_dict()
    assert whole.kind == ("text" if kinds <= TEXTS else "hashed")
    assert len(whole.counts) <= max(TEXTS, HASHED)


@pytest.mark.parametrize("level", [0.01, 0.25, 0.5, 0.9, 0.999])
def test_quantiles_are_right_within_a_bucket(level: float) -> None:
    """Of values that differ by the thousandfold, on both sides of zero."""
    source = np.random.default_rng(3)
    values = source.lognormal(3, 2, 100_000) * source.choice([-1, 1], 100_000)

    assert of_numbers(values).quantile(level) == pytest.approx(np.quantile(values, level), rel=0.06)


def test_nothing_is_told_of_nothing() -> None:
    """No values, only missing ones, and texts have no quantile."""
    empty, lost = of_numbers(np.array([])), of_numbers(np.array([np.nan] * 3))

    assert (empty.quantile(0.5), empty.missing_ratio) == (None, None)
    assert (lost.quantile(0.5), lost.missing_ratio) == (None, 1.0)
    assert of_texts({"a": 2, None: 2}).quantile(0.5) is None
    assert of_texts({"a": 2, None: 2}).missing_ratio == 0.5


def test_what_does_not_add_up_is_refused() -> None:
    """Numbers and texts, none at all, and counts that are not those of the rows."""
    for parts, problem in (
        ([], r"histograms = \(\): must be at least one"),
        ([of_texts({"a": 1}), of_numbers(np.ones(1))], "must be of one kind of feature"),
    ):
        with pytest.raises(ConfigError, match=problem):
            merged(parts)
    with pytest.raises(ConfigError, match="must be the 1 counted and the 0 missing"):
        Histogram(kind="text", rows=2, missing=0, counts={"a": 1})
