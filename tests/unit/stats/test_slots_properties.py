"""Properties of slots that hold for any units, salts and shares."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from heliostat.stats.slots import NUM_SLOTS, assign, slot

SOURCE = Path(__file__).resolve().parents[3] / "platform"
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
SHARES = st.lists(st.integers(0, 1_000), min_size=1, max_size=5).filter(sum).map(
    lambda weights: [weight / sum(weights) for weight in weights]
)  # fmt: skip

any_of_them = settings(max_examples=20, deadline=None, derandomize=True)


@any_of_them
@given(TEXTS, TEXTS, SHARES)
def test_every_unit_has_one_owner(unit: str, salt: str, shares: list[float]) -> None:
    """Each slot has an owner among the variants, and none is more than a slot off its share."""
    owners = assign(None, shares, salt=salt)

    assert 0 <= slot(unit, salt) < NUM_SLOTS == len(owners)
    assert max(owners) < len(shares)
    assert all(
        abs(owners.count(index) - share * NUM_SLOTS) < 1 for index, share in enumerate(shares)
    )


def test_another_process_finds_the_same_slots_and_owners() -> None:
    """Python's own hash differs from process to process; nothing here may depend on it."""
    units = [f"unit {number} \u00fc\U0001f600" for number in range(200)]
    shares = [0.61, 0.29, 0.1]
    program = (
        "import json, sys; from heliostat.stats.slots import assign, slot\n"
        "units, shares = json.load(sys.stdin)\n"
        "found = [[slot(unit, 'm') for unit in units], list(assign(None, shares, salt='r'))]\n"
        "json.dump(found, sys.stdout)"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", program], input=json.dumps([units, shares]), text=True,
            env={**os.environ, "PYTHONPATH": str(SOURCE), "PYTHONHASHSEED": seed},
            capture_output=True, check=True,
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip

    here = [[slot(unit, "m") for unit in units], list(assign(None, shares, salt="r"))]
    assert [json.loads(text) for text in found] == [here, here]


@any_of_them
@given(SHARES, SHARES, TEXTS)
def test_new_shares_move_no_slot_that_could_stay(
    before: list[float], after: list[float], salt: str
) -> None:
    """Only what a variant has too many of changes hands; from any number of variants to any other."""
    first = assign(None, before, salt=salt)
    second = assign(first, after, salt=salt)

    moved = sum(a != b for a, b in zip(first, second, strict=True))
    assert moved == sum(
        max(0, first.count(index) - second.count(index)) for index in range(len(before))
    )
    assert sorted(map(second.count, range(len(after)))) == sorted(
        map(assign(None, after, salt=salt).count, range(len(after)))
    )


@any_of_them
@given(st.lists(st.integers(0, 100), min_size=1, max_size=8), TEXTS)
def test_a_weight_that_was_there_before_brings_back_its_units(
    percents: list[int], salt: str
) -> None:
    """By whatever steps a rollout went up and down."""
    owners, seen = bytes(NUM_SLOTS), {}
    for percent in [*percents, *reversed(percents)]:
        owners = assign(owners, [1 - percent / 100, percent / 100], salt=salt)
        assert seen.setdefault(percent, owners) == owners


@any_of_them
@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.data(), TEXTS)
def test_one_of_several_variants_can_grow_and_come_back(
    percents: list[int], data: st.DataObject, salt: str
) -> None:
    """At the expense of the stable one; the others keep their slots all the while."""
    stable = 100 - sum(percents)
    grows = data.draw(st.integers(1, len(percents)))
    more = data.draw(st.integers(0, stable))
    grown = list(percents)
    grown[grows - 1] += more
    before = assign(None, [each / 100 for each in (stable, *percents)], salt=salt)
    between = assign(before, [each / 100 for each in (stable - more, *grown)], salt=salt)
    after = assign(between, [each / 100 for each in (stable, *percents)], salt=salt)

    assert after == before
    others = set(range(1, len(percents) + 1)) - {grows}
    assert all(between[at] == owner for at, owner in enumerate(before) if owner in others)


@any_of_them
@given(st.integers(1, 99), TEXTS)
def test_the_measured_share_lies_inside_its_binomial_interval(percent: int, salt: str) -> None:
    """Of 5,000 units; once in a million a right share lies outside."""
    owners = assign(None, [1 - percent / 100, percent / 100], salt=salt)
    hits = sum(owners[slot(f"unit-{number}", salt)] for number in range(5_000))

    low, high = stats.binom.interval(1 - 1e-6, 5_000, percent / 100)
    assert low <= hits <= high
