"""Units that were seen, in bounded memory."""

from __future__ import annotations

import random
import tracemalloc

from heliostat.serving.units import Seen


def test_the_first_thousands_are_exact() -> None:
    """A small rollout counts its units as they are."""
    seen = Seen()
    names = [random.Random(n).getrandbits(64) for n in range(4_000)]

    assert [seen.add(name) for name in names] == [True] * 4_000
    assert [seen.add(name) for name in names] == [False] * 4_000


def test_many_units_take_a_fixed_memory_and_few_are_missed() -> None:
    """A unit that was seen is never new again; of 200,000 new ones a handful is taken for known."""
    draw = random.Random(7)
    seen = Seen()
    tracemalloc.start()
    new = sum(seen.add(draw.getrandbits(64)) for _ in range(200_000))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    draw = random.Random(7)

    assert 199_900 <= new <= 200_000
    assert not any(seen.add(draw.getrandbits(64)) for _ in range(200_000))
    assert size < (1 << 20) + (1 << 16)


def test_negative_hashes_are_units_too() -> None:
    """Python's own hashes are signed."""
    seen = Seen()
    names = [hash(f"u{number}") for number in range(20_000)]

    assert min(names) < 0
    assert sum(map(seen.add, names)) >= 19_990
    assert not any(map(seen.add, names))
