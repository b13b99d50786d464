"""Which consumer reads which partitions."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from heliostat.streams.assignment import assign


@given(
    num_partitions=st.integers(0, 20),
    steps=st.lists(st.sets(st.sampled_from("abcdef"), min_size=1), min_size=1, max_size=6),
)
def test_each_partition_has_one_reader_shares_are_even_and_little_moves(num_partitions, steps):
    """Whoever comes and goes; only what evenness needs changes hands between two that stay."""
    partitions = [str(number) for number in range(num_partitions)]
    before: dict[str, tuple[str, ...]] = {}
    for alive in steps:
        now = assign(partitions, sorted(alive), before)

        assert sorted(p for held in now.values() for p in held) == sorted(partitions)
        sizes = [len(held) for held in now.values()]
        assert max(sizes) - min(sizes) <= 1
        for name, held in now.items():
            lost = set(before.get(name, ())) - set(held)
            gained = set(held) - set(before.get(name, ()))
            assert not (lost and gained)
        if set(before) == alive:
            assert now == before
        before = now
