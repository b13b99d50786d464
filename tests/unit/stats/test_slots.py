from __future__ import annotations

import pytest

from heliostat.errors import ConfigError
from heliostat.stats.slots import NUM_SLOTS, assign, slot


def test_a_slot_never_changes_between_releases():
    """These values are stored experience of real users: a change would reshuffle everybody."""
    assert (slot("customer-7", "churn"), slot("customer-7", "price")) == (2231, 2201)


def test_units_spread_evenly_over_the_slots():
    """A 5 % share of the slots is a 5 % share of the units, within 4 standard errors."""
    owners = assign(None, [0.95, 0.05])
    hits = sum(owners[slot(f"unit-{n}", "m")] for n in range(20_000))

    assert abs(hits - 1000) < 4 * (20_000 * 0.05 * 0.95) ** 0.5


@pytest.mark.parametrize("salt", ["", "a", "rollout-9"])
def test_weights_move_the_least_number_of_slots_and_come_back(salt):
    """Each step moves only the difference; going back restores the very same slots."""
    steps = [0.05, 0.25, 0.5, 1.0, 0.5, 0.25, 0.05, 0.0]
    owners, seen = bytes(NUM_SLOTS), {0.0: bytes(NUM_SLOTS)}
    share = 0.0
    for step in steps:
        moved = assign(owners, [1 - step, step], salt=salt)
        changed = sum(a != b for a, b in zip(owners, moved, strict=True))
        assert changed == round(abs(step - share) * NUM_SLOTS)
        assert seen.setdefault(step, moved) == moved
        owners, share = moved, step


def test_a_variant_that_left_gives_up_all_its_slots():
    """A third variant is dropped: only its own slots move."""
    three = assign(None, [0.5, 0.3, 0.2])
    two = assign(three, [0.7, 0.3])

    assert [three.count(i) for i in range(3)] == [5000, 3000, 2000]
    assert {(a, b) for a, b in zip(three, two, strict=True)} == {(0, 0), (1, 1), (2, 0)}


def test_different_rollouts_begin_with_different_units():
    """Otherwise the same few users would be the first to meet every new version."""
    first = assign(None, [0.95, 0.05], salt="r1")
    second = assign(None, [0.95, 0.05], salt="r2")
    both = sum(a == b == 1 for a, b in zip(first, second, strict=True))

    assert both < 60


def test_shares_that_are_no_distribution_are_refused():
    """The message tells the shares and the rule."""
    with pytest.raises(ConfigError) as caught:
        assign(None, [0.5, 0.6])

    assert str(caught.value) == (
        "slots.shares = (0.5, 0.6): must be 1 to 256 numbers of at least 0 that sum to 1"
    )
