"""Compare what was served with what should have been: features and scores, row by row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

TOLERANCE = 1e-4
"""Largest harmless difference of a number, absolute or relative to the larger one above 1."""

EXAMPLES_KEPT = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityReport:
    """How many rows and values were compared, and every kind of difference found."""

    rows: int
    values: int
    num_different: int
    examples: tuple[str, ...]
    """The first differences, as ``row.column: served, expected``."""

    def __str__(self) -> str:
        """Say it in one line."""
        return f"{self.rows:,} rows, {self.values:,} values, {self.num_different:,} different"


def compare(
    served: Iterable[tuple[str, Mapping[str, Any]]], expected: Mapping[str, Mapping[str, Any]]
) -> ParityReport:
    """Compare served rows with expected ones, column by column of what is expected.

    None and NaN both mean missing. A served row that is not expected, or misses a column,
    counts as a difference; an expected row that was not served is the caller's to count.

    Args:
        served: Row names with values by column.
        expected: Values by column, by row name.

    >>> str(compare([("a", {"x": 1.0})], {"a": {"x": 1.00001}}))
    '1 rows, 1 values, 0 different'
    >>> compare([("a", {"x": None})], {"a": {"x": 2.0}}).examples
    ('a.x: None, expected 2.0',)
    """
    rows = values = num_different = 0
    examples: list[str] = []
    for name, row in served:
        rows += 1
        wanted = expected.get(name)
        found = (
            [f"{name}: served, but not expected"]
            if wanted is None
            else [
                f"{name}.{column}: {row.get(column)!r}, expected {value!r}"
                for column, value in wanted.items()
                if column not in row or not equal(row[column], value)
            ]
        )
        values += len(wanted or ())
        num_different += len(found)
        examples.extend(found[: EXAMPLES_KEPT - len(examples)])
    return ParityReport(
        rows=rows, values=values, num_different=num_different, examples=tuple(examples)
    )


def equal(one: Any, other: Any) -> bool:
    """Say whether two values are the same up to TOLERANCE; None and NaN are both missing.

    >>> equal(float("nan"), None), equal(3, 3.00001), equal("a", "b")
    (True, True, False)
    """
    if _missing(one) or _missing(other):
        return _missing(one) and _missing(other)
    if isinstance(one, int | float) and isinstance(other, int | float):
        return abs(one - other) <= TOLERANCE * max(1.0, abs(one), abs(other))
    return bool(one == other)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))
