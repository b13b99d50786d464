"""Metrics are exact, honest about what cannot be measured, and the same every time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from heliostat.errors import ConfigError
from heliostat.training.evaluate import EvaluationPlan, auc, evaluate


def test_auc_equals_counting_every_pair_also_with_ties_and_weights() -> None:
    """Half a point for a tie; a weight counts like that many rows."""
    rng = np.random.default_rng(3)
    label = rng.integers(0, 2, 300)
    score = rng.integers(0, 20, 300) / 20
    weight = rng.integers(0, 4, 300)

    def by_pairs(label: np.ndarray, score: np.ndarray) -> float:
        ones, zeros = score[label == 1], score[label == 0]
        above = (ones[:, None] > zeros).sum() + 0.5 * (ones[:, None] == zeros).sum()
        return float(above / (len(ones) * len(zeros)))

    assert auc(label, score) == pytest.approx(by_pairs(label, score), abs=1e-12)
    repeated = by_pairs(np.repeat(label, weight), np.repeat(score, weight))
    assert auc(label, score, weight) == pytest.approx(repeated, abs=1e-12)


def test_binary_metrics_of_a_case_counted_by_hand() -> None:
    """Four rows."""
    done = evaluate([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.8], plan=EvaluationPlan(num_bins=2))

    log_loss = -(math.log(0.9) + math.log(0.4) + math.log(0.4) + math.log(0.8)) / 4
    expected = {
        "log_loss": log_loss,
        "base_rate_log_loss": math.log(2),
        "log_loss_ratio": log_loss / math.log(2),
        "auc": 0.75,
        "brier": (0.01 + 0.36 + 0.36 + 0.04) / 4,
        "calibration_error": (2 * abs(0.25 - 0.5) + 2 * abs(0.7 - 0.5)) / 4,
        "positive_ratio": 0.5,
        "mean_score": 0.475,
    }
    assert done.metrics == pytest.approx(expected)
    assert [(item.rows, item.mean_score) for item in done.calibration] == [
        (2, pytest.approx(0.25)),
        (2, pytest.approx(0.7)),
    ]


def test_a_score_that_is_no_number_spoils_every_metric_that_it_enters() -> None:
    """A gate then refuses instead of judging the rows that are left."""
    done = evaluate([0, 1, 1], [0.2, math.nan, 0.9])

    names = ("log_loss", "auc", "brier", "calibration_error", "mean_score")
    assert {name: math.isnan(done.metrics[name]) for name in names} == dict.fromkeys(names, True)
    assert done.to_dict()["metrics"]["auc"] is None


def test_one_class_alone_has_no_auc() -> None:
    """It is NaN, not 0.5 and not an error."""
    assert math.isnan(evaluate([1, 1], [0.2, 0.9]).metrics["auc"])


def test_intervals_hold_the_metric_and_repeat_exactly() -> None:
    """Seeded: the same rows give the same interval."""
    rng = np.random.default_rng(0)
    score = rng.random(4000)
    label = (rng.random(4000) < score).astype(int)
    first, second = evaluate(label, score), evaluate(label, score)

    assert first == second
    for name in ("log_loss", "auc"):
        low, high = first.intervals[name]
        assert low < first.metrics[name] < high
        assert 0.01 < high - low < 0.06
    assert evaluate(label, score, plan=EvaluationPlan(num_resamples=0)).intervals == {}


def test_slices_are_ordered_by_loss_and_small_ones_left_out() -> None:
    """Missing values are a slice of their own; the worst loss is a metric for gates."""
    values = ["a"] * 3 + ["b"] * 3 + [None] * 3 + ["rare"]
    scores = [0.9] * 3 + [0.2] * 3 + [0.5] * 3 + [0.0]
    done = evaluate(
        [1] * 10, scores, slices={"kind": values}, plan=EvaluationPlan(slice_min_rows=2)
    )

    seen = [(item.value, item.rows, round(item.loss, 4)) for item in done.slices]
    assert seen == [("b", 3, 1.6094), ("(missing)", 3, 0.6931), ("a", 3, 0.1054)]
    assert done.metrics["worst_slice_loss"] == done.slices[0].loss


def test_regression_is_measured_against_the_mean() -> None:
    """A constant guess of the mean explains nothing."""
    done = evaluate([1.0, 2.0, 3.0], [2.0, 2.0, 2.0], task="regression")

    expected = {"mse": 2 / 3, "mae": 2 / 3, "r2": 0.0, "base_mse": 2 / 3}
    assert done.metrics == pytest.approx(expected)


def test_rows_that_cannot_be_measured_are_refused() -> None:
    """No rows, other lengths, labels that are no labels."""
    for labels, scores in (([], []), ([1], [0.1, 0.2]), ([2], [0.1])):
        with pytest.raises(ConfigError):
            evaluate(labels, scores)
