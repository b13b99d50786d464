"""What was served is compared value by value, and nothing that differs is let through."""

from __future__ import annotations

import pytest

from heliostat.pipeline.parity import ParityReport, compare


def test_equal_rows_have_no_difference() -> None:
    """Missing is missing, however it is written; small rounding is no difference."""
    report = compare(
        [("a", {"x": 1.0, "y": None, "z": "p"})],
        {"a": {"x": 1.00005, "y": float("nan"), "z": "p"}},
    )

    assert report == ParityReport(rows=1, values=3, num_different=0, examples=())


@pytest.mark.parametrize(
    ("served", "said"),
    [
        ({"x": 1.001}, "a.x: 1.001, expected 1.0"),
        ({"x": None}, "a.x: None, expected 1.0"),
        ({}, "a.x: None, expected 1.0"),
        ({"x": "1.0"}, "a.x: '1.0', expected 1.0"),
    ],
)
def test_each_kind_of_difference_is_found(served: dict[str, object], said: str) -> None:
    """Another number, a missing value, a missing column, another type."""
    report = compare([("a", served)], {"a": {"x": 1.0}})

    assert report == ParityReport(rows=1, values=1, num_different=1, examples=(said,))


def test_a_row_that_nobody_expected_is_a_difference() -> None:
    """An exposure without its offline row cannot pass as equal."""
    report = compare([("b", {"x": 1.0})], {"a": {"x": 1.0}})

    assert report.num_different == 1
    assert report.examples == ("b: served, but not expected",)
