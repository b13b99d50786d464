"""What each gate of a plan allows, and what a check or a comparison asks, checked when built."""

from __future__ import annotations

import math
import urllib.parse
from dataclasses import dataclass
from typing import Literal

from heliostat.config import require, require_name
from heliostat.stats import planned


def _require_alpha(where: str, alpha: float) -> None:
    require(0 < alpha <= 0.2, f"{where}.alpha", alpha, "must lie above 0 and be at most 0.2")


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorsGate:
    """The candidate's error ratio may exceed the stable version's by a margin, not more."""

    margin_ratio: float = 0.02
    """Largest harmless difference of the two error ratios, 0 to 1."""

    alpha: float = 0.01
    """Chance of ever passing a worse candidate, and of ever failing an equal one."""

    def __post_init__(self) -> None:
        require(
            0 < self.margin_ratio < 1,
            "plan.errors.margin_ratio",
            self.margin_ratio,
            "must lie between 0 and 1",
        )
        _require_alpha("plan.errors", self.alpha)


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyGate:
    """A quantile of the candidate's answer time may exceed the stable version's by a margin."""

    quantile: float = 0.95
    """Which quantile is compared, between 0 and 1."""

    margin_ms: float = 25.0
    """Allowed difference in milliseconds ..."""

    margin_ratio: float = 1.5
    """... or allowed multiple, whichever allows more; at least 1."""

    alpha: float = 0.01
    """Chance of ever passing a slower candidate, and of ever failing one within the margin."""

    def __post_init__(self) -> None:
        where = "plan.latency"
        require(
            0.5 <= self.quantile < 1,
            f"{where}.quantile",
            self.quantile,
            "must be at least 0.5 and below 1",
        )
        require(
            0 <= self.margin_ms < math.inf,
            f"{where}.margin_ms",
            self.margin_ms,
            "must be at least 0",
        )
        require(
            1 <= self.margin_ratio < math.inf,
            f"{where}.margin_ratio",
            self.margin_ratio,
            "must be at least 1",
        )
        _require_alpha(where, self.alpha)


Loss = Literal["log_loss", "squared_error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class LossGate:
    """The candidate's mean loss may exceed the stable version's by a margin, not more.

    Both versions score the same rows off the answer path, so that the difference is paired.
    """

    of: Loss = "log_loss"
    """``log_loss`` of a probability against a label 0 or 1, or ``squared_error`` of a number."""

    margin: float = 0.01
    """Largest harmless difference of the two mean losses: in nats, or in the label's unit
    squared."""

    alpha: float = 0.01
    """Chance of ever passing a worse candidate, and of ever failing one within the margin."""

    def __post_init__(self) -> None:
        require(
            self.of in ("log_loss", "squared_error"),
            "plan.loss.of", self.of, "must be log_loss or squared_error",
        )  # fmt: skip
        require(0 <= self.margin < math.inf, "plan.loss.margin", self.margin, "must be at least 0")
        _require_alpha("plan.loss", self.alpha)


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A question to somebody outside that must be answered well; no answer holds the rollout."""

    name: str

    url: str
    """A Prometheus server's base URL where `query` is given; else an address that is told the
    rollout by a signed POST and answers 200, with ``{"verdict": "fail"}`` to roll back."""

    query: str | None = None
    """PromQL with one number as its answer."""

    at_least: float | None = None
    at_most: float | None = None
    """What the number must be; at least one of the two where there is a query."""

    every_s: float = 10.0
    """Time between two questions; an answer older than three times that is no answer."""

    timeout_s: float = 5.0

    def __post_init__(self) -> None:
        require_name("plan.checks.name", self.name)
        where = f"plan.checks.{self.name}"
        parts = urllib.parse.urlsplit(self.url)
        require(
            parts.scheme in ("http", "https") and bool(parts.hostname),
            f"{where}.url",
            self.url,
            "must be an http or https URL",
        )
        limits = [limit for limit in (self.at_least, self.at_most) if limit is not None]
        require(
            bool(limits) == (self.query is not None),
            f"{where}.query",
            self.query,
            "needs at_least or at_most, and only a query has them",
        )
        for name in ("every_s", "timeout_s"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"{where}.{name}", value, "must be above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What an A/B test compares and when it stops, registered before it begins."""

    metric: str
    """Name under which outcomes of units are reported."""

    effect: float
    """Smallest difference that matters, in the metric's unit."""

    deviation: float
    """Standard deviation of one unit's value, from earlier traffic."""

    alpha: float = 0.05
    """Chance of finding a difference where there is none, two-sided, over all looks."""

    power: float = 0.8
    """Chance of finding a difference of `effect`."""

    stop: Literal["fixed", "obrien_fleming", "pocock"] = "obrien_fleming"
    """One look at the end, or `looks` with bounds that are strict at first, or even."""

    looks: int = 5

    per: Literal["unit", "event"] = "unit"
    """Mean of the units' sums, adjusted by their values from before; or sum over number of
    events, as in clicks per view, where units and not events are independent."""

    higher_is_better: bool = True

    on_win: Literal["report", "promote"] = "report"
    """What follows if the candidate is better."""

    def __post_init__(self) -> None:
        where = "plan.comparison"
        require_name(f"{where}.metric", self.metric)
        for name in ("effect", "deviation"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"{where}.{name}", value, "must be above 0")
        _require_alpha(where, self.alpha)
        require(0.5 <= self.power < 1, f"{where}.power", self.power, "must be 0.5 to below 1")
        for name, known in _WORDS.items():
            value = getattr(self, name)
            require(value in known, f"{where}.{name}", value, "must be " + " or ".join(known))
        require(2 <= self.looks <= 20, f"{where}.looks", self.looks, "must be 2 to 20")

    @property
    def num_looks(self) -> int:
        """How often the test may stop."""
        return 1 if self.stop == "fixed" else self.looks

    def units_needed(self, share: float) -> int:
        """Units of both versions together at the last look, if the candidate has this share."""
        per_version = planned.units_needed(
            effect=self.effect, deviation=self.deviation, alpha=self.alpha, power=self.power
        )
        # The variance of the difference is that of 1/n1 + 1/n0.
        return math.ceil(per_version / 2 * (1 / share + 1 / (1 - share)))


_WORDS = {
    "stop": ("fixed", "obrien_fleming", "pocock"),
    "per": ("unit", "event"),
    "on_win": ("report", "promote"),
}
