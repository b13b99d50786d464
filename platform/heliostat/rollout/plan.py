"""Rollout plans: the steps a candidate takes and what it must show at each, checked when built."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from heliostat import config
from heliostat.config import require, require_name
from heliostat.errors import nearest
from heliostat.rollout import written
from heliostat.rollout.allowed import Check, Comparison, ErrorsGate, LatencyGate, LossGate

Kind = Literal["canary", "blue_green", "ab", "shadow"]

GATES = ("errors", "latency", "loss")
"""Names of the gates that every plan may have; each is a field of it."""

_ERRORS, _LATENCY, _LOSS = ErrorsGate(), LatencyGate(), LossGate()

_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "canary": {},
    "blue_green": {"steps_percent": (0.0,), "bake_s": 600.0},
    "ab": {"steps_percent": (50.0,), "loss": None, "max_inconclusive_s": 30 * 86_400.0},
    "shadow": {"steps_percent": (0.0,)},
}
"""What a kind's plan takes where it says nothing, in place of the fields' own defaults."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutPlan:
    """How one candidate version earns the traffic of one model, or is compared or only watched."""

    model: str

    candidate: str
    """Registry version on trial, such as ``"2"``."""

    kind: Kind = "canary"
    """``canary``: steps. ``blue_green``: mirrored first, then cut over at once into the bake.
    ``ab``: a fixed split until the comparison stops. ``shadow``: mirrored only, no traffic."""

    steps_percent: tuple[float, ...] = (5.0, 25.0, 50.0, 100.0)
    """Share of all units at each step; strictly rising, the last one 100 where the candidate may
    be promoted. At 0 the candidate only scores the rows that stable has answered."""

    min_requests_per_step: int = 300
    """New requests that the candidate must get at each step before it may move on; at 0 percent,
    rows that it has scored."""

    errors: ErrorsGate | None = _ERRORS
    latency: LatencyGate | None = _LATENCY
    loss: LossGate | None = _LOSS
    """None leaves a gate out."""

    checks: tuple[Check, ...] = ()
    """Further gates, asked outside: Prometheus queries and HTTP addresses."""

    comparison: Comparison | None = None
    """What an ``ab`` plan compares."""

    optional: tuple[str, ...] = ()
    """Gates that need not pass to move on; they still roll back when they fail."""

    twin: bool = False
    """Compare errors and latency with a fresh isolated copy of the stable version that takes the
    same share, in place of the stable version itself: the same age and the same way."""

    hold_s: float = 0.0
    """Shortest time at each step, however good the evidence; harm is acted on at once."""

    approvals_percent: tuple[float, ...] = ()
    """Steps that somebody must approve before the candidate leaves them."""

    bake_s: float = 0.0
    """After the promotion the version before stays loaded for so long, and takes all traffic back
    if the gates fail on what was seen since; 0 leaves that out."""

    bake_percent: float = 5.0
    """Share of the units that the version before keeps meanwhile, so that there is something to
    compare with: the units that would have moved last."""

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
        require(self.kind in _DEFAULTS, "plan.kind", self.kind, "must be " + " or ".join(_DEFAULTS))
        self._check_steps()
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
                percent in self.steps_percent,
                "plan.approvals_percent",
                percent,
                f"must be one of the steps {', '.join(f'{step:g}' for step in self.steps_percent)}",
            )
        self._check_bake()
        self._check_gates()

    def _check_steps(self) -> None:
        steps, where = self.steps_percent, "plan.steps_percent"
        require(bool(steps), where, steps, "must not be empty")
        for low, high in zip((-1.0, *steps), steps, strict=False):
            require(
                low < high <= 100 and high >= 0,
                where,
                steps,
                "must rise at every step, from 0 or above to 100",
                breaks=f"{high:g} follows {low:g}" if low >= 0 else f"{high:g} is below 0",
            )
        if self.kind in ("blue_green", "shadow"):
            require(steps == (0,), where, steps, f"must be 0 alone for kind {self.kind}")
        elif self.kind == "ab":
            fixed = len(steps) == 1 and 0 < steps[0] < 100
            require(fixed, where, steps, "must be one share above 0 and below 100 for kind ab")
        else:
            require(
                steps[-1] == 100,
                where,
                steps,
                "must end with 100",
                breaks=f"the last one is {steps[-1]:g}",
            )

    def _check_bake(self) -> None:
        require(0 <= self.bake_s < math.inf, "plan.bake_s", self.bake_s, "must be at least 0")
        require(
            0 < self.bake_percent <= 50,
            "plan.bake_percent",
            self.bake_percent,
            "must lie above 0 and be at most 50",
        )
        if self.kind == "blue_green":
            require(
                self.bake_s > 0,
                "plan.bake_s",
                self.bake_s,
                "must be above 0 for kind blue_green; only the bake sees it under traffic",
            )

    def _check_gates(self) -> None:
        names = [check.name for check in self.checks]
        for number, name in enumerate(names):
            require(
                name not in (*GATES, "split", "comparison", *names[:number]),
                "plan.checks.name",
                name,
                "must be a name of its own",
            )
        require(
            any(name not in self.optional for name in self.gates) or self.kind == "shadow",
            "plan.optional",
            self.optional,
            "must leave at least one gate that has to pass",
        )
        for name in self.optional:
            known = (*GATES, *names)
            require(
                name in known, "plan.optional", name, "must name a gate; " + nearest(name, known)
            )
        require(
            (self.comparison is not None) == (self.kind == "ab"),
            "plan.comparison",
            None if self.comparison is None else self.comparison.metric,
            "must be given for kind ab, and only for it",
        )
        require(
            not self.twin or self.kind == "canary",
            "plan.twin",
            self.twin,
            "has no meaning for another kind than canary",
        )

    @property
    def gates(self) -> tuple[str, ...]:
        """Names of the gates that this plan has, the split check left out."""
        own = tuple(name for name in GATES if getattr(self, name) is not None)
        return (*own, *(check.name for check in self.checks))

    @property
    def paired(self) -> bool:
        """Whether both versions must score each row."""
        return self.loss is not None or self.steps_percent[0] == 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` gives an equal plan back."""
        plain: dict[str, Any] = config.to_dict(self)
        return plain

    @staticmethod
    def from_dict(raw: object) -> RolloutPlan:
        """Build a plan from JSON values; missing keys take the defaults of the plan's kind.

        Raises:
            ConfigError: An unknown key (naming the nearest right one), a missing model or
                candidate, a value of another type, or a plan that cannot be meant.
        """
        if isinstance(raw, Mapping):
            kind = raw.get("kind", "canary")
            raw = {**_DEFAULTS.get(kind if isinstance(kind, str) else "", {}), **raw}
        return written.build(RolloutPlan, _plain(raw), "plan")


def _plain(raw: object) -> object:
    return dict(raw) if isinstance(raw, Mapping) else raw
