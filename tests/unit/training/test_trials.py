from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from heliostat.errors import ConfigError
from heliostat.training import trials
from heliostat.training.evaluate import Evaluation, EvaluationPlan
from heliostat.training.gates import Gate, judge
from heliostat.training.trials import Behaviour

ROWS = 2_000


def _rows() -> tuple[pl.DataFrame, Any]:
    rng = np.random.default_rng(3)
    strong, weak = rng.normal(size=ROWS), rng.normal(size=ROWS)
    label_B = (rng.random(ROWS) < 1 / (1 + np.exp(-2 * strong - 0.2 * weak))).astype(float)
    color = np.where(rng.random(ROWS) < 0.5, "red", "blue")
    return pl.DataFrame({"strong": strong, "weak": weak, "color": color}), label_B


def _score(frame: pl.DataFrame) -> Any:
    """A model that knows the rule; what is missing counts as 0."""
    strong = frame["strong"].fill_null(0).to_numpy()
    weak = frame["weak"].fill_null(0).to_numpy()
    return (1 / (1 + np.exp(-2 * strong - 0.2 * weak))).astype(np.float32)


def more(frame: pl.DataFrame) -> pl.DataFrame:
    """A directional change."""
    return frame.with_columns(pl.col("strong") + 1)


def recolored(frame: pl.DataFrame) -> pl.DataFrame:
    """A change that must not matter."""
    return frame.with_columns(color=pl.lit("green"))


def fewer(frame: pl.DataFrame) -> pl.DataFrame:
    """No change of the same rows."""
    return frame.head(3)


def _run(score: Any = _score, *behaviours: Behaviour) -> trials.Trials:
    rows, label_B = _rows()
    return trials.run(
        score, rows, label_B, inputs=("strong", "weak", "color"), numeric=("strong", "weak"),
        task="binary", behaviours=behaviours,
    )  # fmt: skip


def test_each_input_is_told_by_what_the_model_loses_without_it() -> None:
    """The most needed first; one that the model does not read costs nothing."""
    found = _run()

    assert [item.name for item in found.inputs] == ["strong", "weak", "color"]
    by_name = {item.name: item for item in found.inputs}
    assert by_name["strong"].missing_rise > 0.2
    assert by_name["color"].shuffled_rise == 0.0
    assert found.metrics["missing_worst_rise"] == by_name["strong"].missing_rise
    assert found.metrics["missing_all_finite"] == 1.0
    assert 0 < found.metrics["perturbed_change"] < 0.02
    assert 0.8 < found.metrics["leak_alone"] < 0.95


def test_a_model_that_answers_no_number_without_its_inputs_is_seen() -> None:
    """The gate on it refuses, and no other number hides it."""

    def fragile(frame: pl.DataFrame) -> Any:
        return frame["strong"].cast(pl.Float64).fill_null(math.nan).to_numpy()

    found = _run(fragile)
    gate = Gate(
        name="g", metric="missing_all_finite", threshold=1.0, direction="at_least", why="late data"
    )
    assert found.metrics["missing_all_finite"] == 0.0
    assert not judge(found.metrics, [gate]).passed


def test_behaviours_are_shares_of_rows_that_answer_as_expected() -> None:
    """Directions and invariance; the wrong direction is kept by few rows."""
    found = _run(
        _score,
        Behaviour(name="rises", change=more, expect="not_lower", why="more of it"),
        Behaviour(name="falls", change=more, expect="not_higher", why="the wrong way round"),
        Behaviour(name="color", change=recolored, expect="same", why="paint does not matter"),
    ).metrics

    assert found["behaviour.rises"] == found["behaviour.color"] == 1.0
    assert found["behaviour.falls"] < 0.1
    with pytest.raises(ConfigError, match="must return as many rows as it is given, 2000"):
        _run(_score, Behaviour(name="fewer", change=fewer, expect="same", why="no"))
    with pytest.raises(ConfigError, match=r"behaviour x\.why = ' ': must be written down"):
        Behaviour(name="x", change=more, expect="same", why=" ")


def test_a_column_made_from_the_label_stands_out_alone() -> None:
    """A leakage canary is found whatever the model makes of it."""
    rows, label_B = _rows()
    found = trials.run(
        _score, rows.with_columns(canary=pl.Series(label_B * 3 + 1)), label_B,
        inputs=("strong", "weak", "canary"), numeric=("strong", "weak", "canary"), task="binary",
    )  # fmt: skip
    gate = Gate(name="no-leak", metric="leak_alone", threshold=0.99, direction="at_most", why="x")
    assert found.metrics["leak_alone"] == 1.0
    assert not judge(found.metrics, [gate]).passed
    assert judge(_run().metrics, [gate]).passed


def test_two_versions_are_compared_row_by_row_on_the_same_rows() -> None:
    """A worse model is surely worse, an equal one is not; without production there is no evidence."""
    rows, label_B = _rows()
    good, flat = _score(rows), np.full(ROWS, label_B.mean())
    plan = EvaluationPlan(num_resamples=200)

    worse = trials.against(label_B, flat, good, "binary", plan)
    equal = trials.against(label_B, good, good, "binary", plan)

    assert worse["production_rise_low"] > 0.1
    assert equal["production_rise"] == equal["production_rise_high"] == 0.0
    gate = Gate(name="g", metric="production_rise_low", threshold=0, direction="at_most", why="x")
    assert [judge(found, [gate]).passed for found in (worse, equal, {})] == [False, True, False]


def test_trials_survive_the_way_through_a_package() -> None:
    """Intervals can be judged by their ends; old packages without trials are read too."""
    found = _run()
    whole = Evaluation(
        rows=ROWS, metrics=found.metrics, intervals={"auc": (0.7, 0.8)}, inputs=found.inputs
    )
    assert Evaluation.from_dict(whole.to_dict()) == whole
    assert (whole.judged["auc_low"], whole.judged["auc_high"]) == (0.7, 0.8)
    old = {name: value for name, value in whole.to_dict().items() if name != "inputs"}
    assert Evaluation.from_dict(old).inputs == ()


def test_gate_results_are_one_line_each_on_the_version() -> None:
    """With what was seen and what was needed, so that a registry shows why a version passed."""
    gates = [
        Gate(name="ranks", metric="auc", threshold=0.7, direction="at_least", why="goal"),
        Gate(name="fits", metric="ece", threshold=0.1, direction="at_most", why="x", waived="new"),
    ]
    assert judge({"auc": 0.75}, gates).tags() == {
        "gate.ranks": "met: auc 0.75, >= 0.7",
        "gate.fits": "waived (new): ece not measured, <= 0.1",
    }
