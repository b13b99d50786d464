"""Rollout plans: the steps a candidate takes and what it must show at each, checked when built."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from heliostat import config
from heliostat.config import require, require_name
from heliostat.errors import ConfigError, nearest


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


GATES = ("errors", "latency", "loss")
"""Names of all gates; each is a field of the plan."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CanaryPlan:
    """How one candidate version earns the traffic of one model."""

    model: str

    candidate: str
    """Registry version on trial, such as ``"2"``."""

    steps_percent: tuple[float, ...] = (5.0, 25.0, 50.0, 100.0)
    """Share of all units at each step; strictly rising, the last one 100."""

    min_requests_per_step: int = 300
    """New requests that the candidate must get at each step before it may move on."""

    errors: ErrorsGate | None = ErrorsGate()
    latency: LatencyGate | None = LatencyGate()
    loss: LossGate | None = LossGate()
    """None leaves a gate out."""

    optional: tuple[str, ...] = ()
    """Gates that need not pass to move on; they still roll back when they fail."""

    hold_s: float = 0.0
    """Shortest time at each step, however good the evidence; harm is acted on at once."""

    approvals_percent: tuple[float, ...] = ()
    """Steps that somebody must approve before the candidate leaves them."""

    max_inconclusive_s: float = 900.0
    """Longest time at one step, starting included; then all traffic returns to stable."""

    evidence_stale_s: float = 10.0
    """Counts older than this decide nothing; gateways report each second."""

    labels_stale_s: float = 600.0
    """Without a labelled pair for so long the loss gate decides nothing."""

    salt: str = ""
    """Which units come first depends on it; empty takes the rollout's id."""

    def __post_init__(self) -> None:
        require_name("plan.model", self.model)
        require(
            bool(self.candidate) and "/" not in self.candidate,
            "plan.candidate",
            self.candidate,
            "must be a registry version",
        )
        steps = self.steps_percent
        require(bool(steps), "plan.steps_percent", steps, "must not be empty")
        for low, high in zip((0.0, *steps), steps, strict=False):
            require(
                low < high <= 100,
                "plan.steps_percent",
                steps,
                "must rise at every step, from above 0 to 100",
                breaks=f"{high:g} follows {low:g}",
            )
        require(
            steps[-1] == 100,
            "plan.steps_percent",
            steps,
            "must end with 100",
            breaks=f"the last one is {steps[-1]:g}",
        )
        require(
            self.min_requests_per_step >= 1,
            "plan.min_requests_per_step",
            self.min_requests_per_step,
            "must be at least 1",
        )
        for name in ("max_inconclusive_s", "evidence_stale_s", "labels_stale_s"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"plan.{name}", value, "must be above 0")
        require(
            0 <= self.hold_s < self.max_inconclusive_s,
            "plan.hold_s",
            self.hold_s,
            f"must be at least 0 and below max_inconclusive_s, {self.max_inconclusive_s:g}",
        )
        for percent in self.approvals_percent:
            require(
                percent in steps,
                "plan.approvals_percent",
                percent,
                f"must be one of the steps {', '.join(f'{step:g}' for step in steps)}",
            )
        require(
            any(name not in self.optional for name in self.gates),
            "plan.optional",
            self.optional,
            "must leave at least one gate that has to pass",
        )
        for name in self.optional:
            require(
                name in GATES, "plan.optional", name, "must name a gate; " + nearest(name, GATES)
            )

    @property
    def gates(self) -> tuple[str, ...]:
        """Names of the gates that this plan has."""
        return tuple(name for name in GATES if getattr(self, name) is not None)

    @property
    def paired(self) -> bool:
        """Whether both versions must score each row."""
        return self.loss is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` gives an equal plan back."""
        plain: dict[str, Any] = config.to_dict(self)
        return plain

    @staticmethod
    def from_dict(raw: object) -> CanaryPlan:
        """Build a plan from JSON values; missing keys take their defaults.

        Raises:
            ConfigError: An unknown key (naming the nearest right one), a missing model or
                candidate, a value of another type, or a plan that cannot be meant.
        """
        fields = _known("plan", raw, CanaryPlan)
        for name in ("model", "candidate"):
            require(name in fields, f"plan.{name}", None, "must be given")
        for name, kind in (("errors", ErrorsGate), ("latency", LatencyGate), ("loss", LossGate)):
            if fields.get(name) is not None:
                gate = _known(f"plan.{name}", fields[name], kind)
                for key in gate:
                    if key != "of":
                        gate[key] = _number(f"plan.{name}.{key}", gate[key])
                fields[name] = kind(**gate)
        for name in ("model", "candidate", "salt"):
            value = fields.get(name, "")
            require(isinstance(value, str), f"plan.{name}", value, "must be text")
        for name in ("steps_percent", "optional", "approvals_percent"):
            value = fields.get(name, ())
            require(isinstance(value, list | tuple), f"plan.{name}", value, "must be a list")
            if name in fields:
                fields[name] = tuple(value)
        for name in ("steps_percent", "approvals_percent"):
            for step in fields.get(name, ()):
                _number(f"plan.{name}", step)
        for name in fields:
            if name == "min_requests_per_step":
                value = fields[name]
                require(type(value) is int, f"plan.{name}", value, "must be a whole number")
            elif name.endswith("_s"):
                fields[name] = _number(f"plan.{name}", fields[name])
        return CanaryPlan(**fields)


def _known(where: str, raw: object, kind: type) -> dict[str, Any]:
    if not isinstance(raw, Mapping):
        raise ConfigError(where, raw, "must be a JSON object")
    names = [field.name for field in dataclasses.fields(kind)]
    for key in raw:
        require(
            key in names, f"{where}.{key}", raw[key], "is not known; " + nearest(str(key), names)
        )
    return dict(raw)


def _number(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(where, value, "must be a finite number")
    return float(value)
