"""Measure scores against labels: metrics with intervals, calibration, slices; pure numpy.

Shapes: B rows, U distinct scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from heliostat.config import require

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_SMALLEST = 1e-7
"""Probabilities are cut to [this, 1 - this], so that one sure and wrong answer stays finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """Rows of like score: a calibrated model's mean score equals the share of ones."""

    rows: int
    mean_score: float
    positive_ratio: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """The loss within rows that have one value in one column."""

    column: str
    value: str
    rows: int
    loss: float


@dataclass(frozen=True, kw_only=True, slots=True)
class InputTrial:
    """What one input is worth to a model."""

    name: str
    missing_rise: float
    """By how much the mean loss rises if it is missing everywhere."""
    shuffled_rise: float
    """The same if its values are exchanged between rows."""
    alone: float
    """What it predicts without any model: an AUC, or a share of variance."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What was measured on one set of rows."""

    rows: int

    metrics: Mapping[str, float]
    """Binary: log_loss, base_rate_log_loss, log_loss_ratio (of the two), auc, brier, calibration_error, positive_ratio,
    mean_score. Regression: mse, mae, r2, base_mse. With slices: worst_slice_loss."""

    intervals: Mapping[str, tuple[float, float]]
    """95 % bootstrap intervals of some metrics."""

    calibration: tuple[Bin, ...] = ()
    slices: tuple[Slice, ...] = ()
    """All slices that are large enough, the worst first."""
    inputs: tuple[InputTrial, ...] = ()
    """What each input is worth, the most needed first."""

    @property
    def judged(self) -> dict[str, float]:
        """Everything that a gate may ask for: metrics, and ``<metric>_low`` and ``_high``."""
        bounds = {
            f"{name}_{side}": value
            for name, interval in self.intervals.items()
            for side, value in zip(("low", "high"), interval, strict=True)
        }
        return {**bounds, **self.metrics}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as stored in ``gates.json``; what is not finite becomes null."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Evaluation:
        """Read what `to_dict` wrote; null numbers become NaN."""
        return cls(
            rows=plain["rows"],
            metrics={name: _number(value) for name, value in plain["metrics"].items()},
            intervals={
                name: (_number(low), _number(high))
                for name, (low, high) in plain["intervals"].items()
            },
            calibration=tuple(Bin(**item) for item in plain["calibration"]),
            slices=tuple(
                Slice(**{**item, "loss": _number(item["loss"])}) for item in plain["slices"]
            ),
            # Packages from before inputs were tried have none.
            inputs=tuple(
                InputTrial(
                    name=item["name"],
                    **{key: _number(item[key]) for key in item if key != "name"},
                )
                for item in plain.get("inputs", ())
            ),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationPlan:
    """How a model is measured."""

    slices: tuple[str, ...] = ()
    """Columns whose values are measured one by one."""

    slice_min_rows: int = 200
    """Smaller slices are left out: their loss is mostly chance."""

    num_resamples: int = 100
    """Bootstrap repetitions; 0 leaves intervals out."""

    num_bins: int = 10
    seed: int = field(default=0)

    def __post_init__(self) -> None:
        for name, low in (("slice_min_rows", 1), ("num_resamples", 0), ("num_bins", 1)):
            value = getattr(self, name)
            require(value >= low, f"evaluation.{name}", value, f"must be at least {low}")


def evaluate(
    labels: Sequence[float] | NDArray[Any],
    scores: Sequence[float] | NDArray[Any],
    *,
    task: Literal["binary", "regression"] = "binary",
    slices: Mapping[str, Sequence[Any]] | None = None,
    plan: EvaluationPlan | None = None,
) -> Evaluation:
    """Measure scores against labels. The same arguments give the same numbers.

    Args:
        labels: Shape (B,), each 0 or 1 if binary.
        scores: Shape (B,): probabilities if binary, else predictions.
        task: Which metrics are taken.
        slices: Column name to B values; a value with few rows is left out.
        plan: Sizes and seed.

    Returns:
        Metrics. One that has no meaning here (the AUC of a single class) is NaN, and all of
        them are if a score is NaN, so that no gate is passed by accident.

    Raises:
        ConfigError: No rows, lengths differ, or a binary label is neither 0 nor 1.
    """
    plan = plan or EvaluationPlan()
    label_B = np.asarray(labels, np.float64)
    score_B = np.asarray(scores, np.float64)
    require(label_B.ndim == 1 and len(label_B) > 0, "labels", label_B.shape, "must be rows")
    require(score_B.shape == label_B.shape, "scores", score_B.shape, f"must be {label_B.shape}")
    binary = task == "binary"
    require(
        not binary or bool(np.isin(label_B, (0.0, 1.0)).all()), "labels", "binary", "must be 0 or 1"
    )
    loss_B = row_log_loss(label_B, score_B) if binary else (score_B - label_B) ** 2
    measured = _slices(loss_B, slices or {}, plan)
    metrics = _binary(label_B, score_B, loss_B, plan) if binary else _regression(label_B, score_B)
    if measured:
        metrics["worst_slice_loss"] = measured[0].loss
    if binary:
        intervals = _intervals(label_B, score_B, loss_B, plan)
    else:
        intervals = _mean_intervals({"mse": loss_B, "mae": np.abs(score_B - label_B)}, plan)
    return Evaluation(
        rows=len(label_B),
        metrics=metrics,
        intervals=intervals,
        calibration=_bins(label_B, score_B, plan.num_bins) if binary else (),
        slices=measured,
    )


def row_log_loss(label_B: NDArray[Any], score_B: NDArray[Any]) -> Floats:
    """Cross-entropy of each row, shape (B,), with scores cut away from 0 and 1.

    >>> row_log_loss(np.array([1.0]), np.array([0.5])).round(4).tolist()
    [0.6931]
    """
    score_B = np.clip(score_B, _SMALLEST, 1 - _SMALLEST)
    loss_B: Floats = -np.where(label_B == 1, np.log(score_B), np.log1p(-score_B))
    return loss_B


def auc(
    label_B: NDArray[Any], score_B: NDArray[Any], weight_B: NDArray[Any] | None = None
) -> float:
    """Chance that a random one scores above a random zero, equal scores counting half.

    Exact, in one sort. NaN if a score is NaN or one of the classes is absent.

    >>> auc(np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.4, 0.8]))
    0.875
    """
    return _auc(*_groups(label_B, score_B), weight_B)


def _groups(label_B: NDArray[Any], score_B: NDArray[Any]) -> tuple[Floats, Any, int]:
    """Labels as given, each row's rank among the U distinct scores, and U (0 if any is NaN)."""
    if np.isnan(score_B).any():
        return np.asarray(label_B, np.float64), np.zeros(len(label_B), np.int64), 0
    distinct_U, rank_B = np.unique(score_B, return_inverse=True)
    return np.asarray(label_B, np.float64), rank_B, len(distinct_U)


def _auc(
    label_B: Floats, rank_B: Any, num_distinct: int, weight_B: NDArray[Any] | None = None
) -> float:
    if num_distinct == 0:
        return math.nan
    weight_B = np.ones(len(label_B)) if weight_B is None else weight_B
    ones_U = np.bincount(rank_B, weight_B * label_B, num_distinct)
    zeros_U = np.bincount(rank_B, weight_B * (1 - label_B), num_distinct)
    pairs = ones_U.sum() * zeros_U.sum()
    if pairs == 0:
        return math.nan
    below_U = np.cumsum(zeros_U) - zeros_U
    return float((ones_U * (below_U + 0.5 * zeros_U)).sum() / pairs)


def _binary(
    label_B: Floats, score_B: Floats, loss_B: Floats, plan: EvaluationPlan
) -> dict[str, float]:
    rate = float(label_B.mean())
    bins = _bins(label_B, score_B, plan.num_bins)
    gaps = [item.rows * abs(item.mean_score - item.positive_ratio) for item in bins]
    log_loss = float(loss_B.mean())
    base_log_loss = float(row_log_loss(label_B, np.full(len(label_B), rate)).mean())
    return {
        "log_loss": log_loss,
        "base_rate_log_loss": base_log_loss,
        "log_loss_ratio": log_loss / base_log_loss if base_log_loss > 0 else math.nan,
        "auc": auc(label_B, score_B),
        "brier": float(((score_B - label_B) ** 2).mean()),
        "calibration_error": sum(gaps) / len(label_B) if bins else math.nan,
        "positive_ratio": rate,
        "mean_score": float(score_B.mean()),
    }


def _regression(label_B: Floats, score_B: Floats) -> dict[str, float]:
    mse = float(((score_B - label_B) ** 2).mean())
    base = float(label_B.var())
    return {
        "mse": mse,
        "mae": float(np.abs(score_B - label_B).mean()),
        "r2": 1 - mse / base if base > 0 else math.nan,
        "base_mse": base,
    }


def _bins(label_B: Floats, score_B: Floats, num_bins: int) -> tuple[Bin, ...]:
    """Bins of about equal size, by score; none if a score is NaN."""
    if np.isnan(score_B).any():
        return ()
    order_B = np.argsort(score_B, kind="stable")
    parts = [part for part in np.array_split(order_B, num_bins) if len(part)]
    return tuple(
        Bin(
            rows=len(part),
            mean_score=float(score_B[part].mean()),
            positive_ratio=float(label_B[part].mean()),
        )
        for part in parts
    )


def _intervals(
    label_B: Floats, score_B: Floats, loss_B: Floats, plan: EvaluationPlan
) -> dict[str, tuple[float, float]]:
    groups = _groups(label_B, score_B)
    drawn = [
        (float(weight_B @ loss_B / len(loss_B)), _auc(*groups, weight_B))
        for weight_B in resamples(len(loss_B), plan)
    ]
    if not drawn:
        return {}
    losses, areas = zip(*drawn, strict=True)
    return {"log_loss": _middle(losses), "auc": _middle(areas)}


def _mean_intervals(
    values: Mapping[str, Floats], plan: EvaluationPlan
) -> dict[str, tuple[float, float]]:
    if plan.num_resamples == 0:
        return {}
    return {
        name: _middle([
            float(weight_B @ value_B / len(value_B)) for weight_B in resamples(len(value_B), plan)
        ])
        for name, value_B in values.items()
    }  # fmt: skip


def resamples(num_rows: int, plan: EvaluationPlan) -> Iterator[Floats]:
    """Yield how often each row is drawn, shape (B,), for each bootstrap repetition."""
    rng = np.random.default_rng(plan.seed)
    for _ in range(plan.num_resamples):
        yield np.bincount(rng.integers(0, num_rows, num_rows), minlength=num_rows).astype(float)


def _middle(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(np.asarray(values), (0.025, 0.975))
    return float(low), float(high)


def _slices(
    loss_B: Floats, slices: Mapping[str, Sequence[Any]], plan: EvaluationPlan
) -> tuple[Slice, ...]:
    found = []
    for column, values in slices.items():
        require(len(values) == len(loss_B), f"slice {column}", len(values), "must have all rows")
        texts = np.array(["(missing)" if value is None else str(value) for value in values])
        names, which_B = np.unique(texts, return_inverse=True)
        rows = np.bincount(which_B, minlength=len(names))
        losses = np.bincount(which_B, loss_B, len(names)) / np.maximum(rows, 1)
        found += [
            Slice(column=column, value=str(name), rows=int(count), loss=float(loss))
            for name, count, loss in zip(names, rows, losses, strict=True)
            if count >= plan.slice_min_rows
        ]
    # A loss that is no number is the worst of all.
    return tuple(
        sorted(
            found, key=lambda item: (not math.isnan(item.loss), -item.loss, item.column, item.value)
        )
    )


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else value
