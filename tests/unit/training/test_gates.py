"""Gates say yes only on evidence."""

from __future__ import annotations

import math

import pytest

from heliostat.errors import ConfigError
from heliostat.training.gates import Gate, judge

RANKS = Gate(name="ranks", metric="auc", threshold=0.7, direction="at_least", why="goal")
LOSES = Gate(name="loses", metric="log_loss", threshold=0.6, direction="at_most", why="goal")


def test_all_gates_must_be_met() -> None:
    """The threshold itself is enough."""
    assert judge({"auc": 0.7, "log_loss": 0.6}, [RANKS, LOSES]).passed
    assert not judge({"auc": 0.7, "log_loss": 0.61}, [RANKS, LOSES]).passed
    assert not judge({"auc": 0.69, "log_loss": 0.6}, [RANKS, LOSES]).passed


@pytest.mark.parametrize("metrics", [{}, {"auc": math.nan}, {"auc": math.inf}])
def test_without_evidence_nothing_passes(metrics: dict[str, float]) -> None:
    """Absent, NaN and infinite metrics are no evidence; neither is having no gate at all."""
    report = judge(metrics, [RANKS])

    assert (report.passed, report.results[0].saw) == (False, None)
    assert str(report.refusal("model tiny")) == (
        "model tiny stays where it is: ranks (auc) is not measured, needs >= 0.7 (goal)"
    )
    assert not judge({"auc": 1.0}, []).passed
    assert str(judge({}, []).refusal("model tiny")) == (
        "model tiny stays where it is: gates is none, needs at least one gate"
    )


def test_a_waiver_lets_pass_and_stays_visible() -> None:
    """It does not turn the gate's result around."""
    waived = Gate(
        name="ranks", metric="auc", threshold=0.7, direction="at_least", why="goal",
        waived="a drill",
    )  # fmt: skip
    report = judge({"auc": 0.5}, [waived])

    assert (report.passed, report.refusal("m")) == (True, None)
    assert [(item.met, item.saw) for item in report.waived] == [(False, 0.5)]
    assert report.to_dict() == [
        {
            "name": "ranks", "metric": "auc", "threshold": 0.7, "direction": "at_least",
            "why": "goal", "waived": "a drill", "saw": 0.5, "met": False,
        }
    ]  # fmt: skip
    assert judge({"auc": 0.9}, [waived]).waived == ()


def test_a_waiver_needs_a_reason_and_a_gate_a_why() -> None:
    """Blank texts are none."""
    with pytest.raises(ConfigError, match="must be a written reason"):
        Gate(name="g", metric="m", threshold=1, direction="at_most", why="w", waived=" ")
    with pytest.raises(ConfigError, match="must be written down"):
        Gate(name="g", metric="m", threshold=1, direction="at_most", why="")
