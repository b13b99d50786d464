"""Thresholds that a model must meet, and what came of them; pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from heliostat.config import require
from heliostat.errors import GateRefused

Direction = Literal["at_least", "at_most"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """One metric's threshold."""

    name: str

    metric: str
    """Name among the metrics of an `evaluate.Evaluation`."""

    threshold: float

    direction: Direction

    why: str
    """Why this threshold; shown when it refuses."""

    waived: str | None = None
    """Written reason for letting a model pass although this gate refuses; None waives nothing."""

    def __post_init__(self) -> None:
        where = f"gate {self.name}"
        require(
            math.isfinite(self.threshold), f"{where}.threshold", self.threshold, "must be finite"
        )
        require(bool(self.why.strip()), f"{where}.why", self.why, "must be written down")
        require(
            self.waived is None or bool(self.waived.strip()),
            f"{where}.waived", self.waived, "must be a written reason, or null",
        )  # fmt: skip

    @property
    def need(self) -> str:
        """The threshold in words: ``>= 0.7``."""
        return f"{'>=' if self.direction == 'at_least' else '<='} {self.threshold:g}"


@dataclass(frozen=True, kw_only=True, slots=True)
class GateResult:
    """What one gate saw."""

    gate: Gate

    saw: float | None
    """The metric; None if it was not measured or is no number."""

    met: bool
    """Whether the threshold was met; a waiver does not change it."""

    @property
    def lets_pass(self) -> bool:
        """Met, or waived with a reason."""
        return self.met or self.gate.waived is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class GateReport:
    """What all gates saw of one model."""

    results: tuple[GateResult, ...]

    @property
    def passed(self) -> bool:
        """Whether the model may move on. Without any gate there is no evidence: it may not."""
        return bool(self.results) and all(result.lets_pass for result in self.results)

    @property
    def waived(self) -> tuple[GateResult, ...]:
        """Gates that refused and were overruled."""
        return tuple(item for item in self.results if not item.met and item.lets_pass)

    def refusal(self, subject: str) -> GateRefused | None:
        """Return the error that says why `subject` may not move on; None if it may."""
        for result in self.results:
            if not result.lets_pass:
                saw = "not measured" if result.saw is None else f"{result.saw:.6g}"
                need = f"{result.gate.need} ({result.gate.why})"
                return GateRefused(subject, f"{result.gate.name} ({result.gate.metric})", saw, need)
        return None if self.results else GateRefused(subject, "gates", "none", "at least one gate")

    def tags(self) -> dict[str, str]:
        """One line for each gate, as stored on the registered version."""
        found = {}
        for item in self.results:
            saw = "not measured" if item.saw is None else f"{item.saw:.6g}"
            word = "met" if item.met else "refused"
            if not item.met and item.gate.waived is not None:
                word = f"waived ({item.gate.waived})"
            found[f"gate.{item.gate.name}"] = f"{word}: {item.gate.metric} {saw}, {item.gate.need}"
        return found

    def to_dict(self) -> list[dict[str, Any]]:
        """Plain values, as stored in ``gates.json``."""
        return [
            {**asdict(result.gate), "saw": result.saw, "met": result.met} for result in self.results
        ]


def judge(metrics: Mapping[str, float], gates: Sequence[Gate]) -> GateReport:
    """Compare metrics with gates. A metric that is absent or not finite meets no gate.

    >>> gate = Gate(name="ranks", metric="auc", threshold=0.7, direction="at_least", why="goal")
    >>> judge({"auc": 0.71}, [gate]).passed, judge({"auc": math.nan}, [gate]).passed
    (True, False)
    >>> print(judge({}, [gate]).refusal("model tiny"))
    model tiny stays where it is: ranks (auc) is not measured, needs >= 0.7 (goal)
    """
    results = []
    for gate in gates:
        saw = metrics.get(gate.metric, math.nan)
        met = saw >= gate.threshold if gate.direction == "at_least" else saw <= gate.threshold
        results.append(
            GateResult(
                gate=gate,
                saw=float(saw) if math.isfinite(saw) else None,
                met=math.isfinite(saw) and bool(met),
            )
        )
    return GateReport(results=tuple(results))
