"""What an A/B test has found: the difference of its metric, and the bound of each planned look."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from heliostat.rollout.allowed import Comparison
from heliostat.rollout.known import Compared
from heliostat.stats import planned, units
from heliostat.stats.units import Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """One planned look, as it was taken."""

    information: float
    """Units seen, as a fraction of those planned; 1 at the last look."""

    units: int
    difference: float
    """Candidate less stable, in the metric's unit."""

    low: float
    high: float
    """Holds the true difference in all looks together with chance 1 - alpha."""

    z: float
    bound: float
    """Beyond it the test stops."""

    @property
    def found(self) -> bool:
        """Whether the difference is real, by this look."""
        return abs(self.z) >= self.bound

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` gives an equal look back."""
        return asdict(self)

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> Look:
        """Build the look again from `to_dict`'s values."""
        return Look(**raw)


def difference(comparison: Comparison, compared: Compared) -> Estimate:
    """Candidate less stable, with its standard error; NaN below two units of either.

    Per unit it is adjusted by the units' values from before (CUPED); per event its error is
    that of a ratio of sums over units (delta method).
    """
    if comparison.per == "unit":
        return units.adjusted_difference(compared.candidate, compared.stable)
    candidate, stable = units.ratio(compared.candidate), units.ratio(compared.stable)
    return Estimate(
        value=candidate.value - stable.value,
        standard_error=math.hypot(candidate.standard_error, stable.standard_error),
        units=compared.units,
    )


def due(comparison: Comparison, compared: Compared, share: float, taken: int) -> bool:
    """Whether enough units were seen for the next planned look."""
    fraction = compared.units / comparison.units_needed(share)
    least = min(compared.stable.units, compared.candidate.units)
    return least >= 2 and fraction >= min(1.0, (taken + 1) / comparison.num_looks)


def look(
    comparison: Comparison, compared: Compared, share: float, earlier: tuple[Look, ...]
) -> Look | None:
    """Take the next look, or None where the metric has no spread or is no number.

    The bound follows the units that were seen at this look and the ones before, not those
    that were planned: error spending allows for that.
    """
    information = min(1.0, compared.units / comparison.units_needed(share))
    if len(earlier) + 1 >= comparison.num_looks:
        information = 1.0
    estimate = difference(comparison, compared)
    if not math.isfinite(estimate.value) or not estimate.standard_error > 0:
        return None
    spending = "obrien_fleming" if comparison.stop == "fixed" else comparison.stop
    times = [item.information for item in earlier] + [information]
    bound = planned.bounds(times, comparison.alpha, spending)[-1]
    width = bound * estimate.standard_error
    return Look(
        information=information,
        units=compared.units,
        difference=estimate.value,
        low=estimate.value - width,
        high=estimate.value + width,
        z=estimate.value / estimate.standard_error,
        bound=bound,
    )


def words(comparison: Comparison, taken: Look, number: int) -> str:
    """A look in words, with the numbers."""
    better = (taken.difference > 0) == comparison.higher_is_better
    verdict = f"the candidate is {'better' if better else 'worse'}" if taken.found else "no verdict"
    return (
        f"look {number} of {comparison.num_looks} at {taken.units} units: {comparison.metric} "
        f"{taken.difference:+.4g} (between {taken.low:+.4g} and {taken.high:+.4g}), {verdict}"
    )
