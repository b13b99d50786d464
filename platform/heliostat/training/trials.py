"""Ask a model what it should know: behaviour, missing inputs, small changes, leaks, its predecessor.

Everything ends as a number under a name, so that a gate can be put on it. Shapes: B rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from heliostat.config import reference, require, require_name
from heliostat.training import leaks
from heliostat.training.evaluate import EvaluationPlan, InputTrial, resamples, row_log_loss

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

Score = Callable[["pl.DataFrame"], "NDArray[np.float32]"]
Task = Literal["binary", "regression"]

_MAX_ROWS = 5_000
_NOISE = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Behaviour:
    """How scores must answer to a change of the rows, whatever the labels are.

    Measured as ``behaviour.<name>``: the share of rows whose score answers as expected. Put a gate
    on it; without one it is only told.
    """

    name: str

    change: Callable[[pl.DataFrame], pl.DataFrame]
    """Takes rows with all inputs, returns as many with some values changed."""

    expect: Literal["same", "not_lower", "not_higher"]
    """``same`` is invariance; the others are directions."""

    why: str

    tolerance: float = 0.01
    """Change that still counts as none: of a probability, or in deviations of the scores."""

    def __post_init__(self) -> None:
        require_name("behaviour.name", self.name)
        where = f"behaviour {self.name}"
        reference(self.change)
        kinds = ("same", "not_lower", "not_higher")
        require(self.expect in kinds, f"{where}.expect", self.expect, f"must be one of {kinds}")
        require(bool(self.why.strip()), f"{where}.why", self.why, "must be written down")
        require(self.tolerance >= 0, f"{where}.tolerance", self.tolerance, "must be at least 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trials:
    """What came of all trials."""

    metrics: dict[str, float]
    """behaviour.<name>, missing_worst_rise, missing_all_finite, perturbed_change, leak_alone."""

    inputs: tuple[InputTrial, ...]
    """Each input on its own, the most needed first."""


def run(
    score: Score,
    rows: pl.DataFrame,
    label_B: NDArray[Any],
    *,
    inputs: Sequence[str],
    numeric: Sequence[str],
    task: Task,
    behaviours: Sequence[Behaviour] = (),
    seed: int = 0,
) -> Trials:
    """Try a model on some of its evaluation rows. The same arguments give the same numbers.

    Args:
        score: The model.
        rows: Rows with every input.
        label_B: Their labels, shape (B,).
        inputs: All inputs.
        numeric: Those of them that are numbers.
        task: What the scores are.
        behaviours: What the workload expects besides.
        seed: Which rows and which noise.

    Returns:
        ``missing_worst_rise``: by how much the mean loss rises if the one input that costs most
        is missing everywhere. ``missing_all_finite``: share of scores that are numbers when every
        input is missing. ``perturbed_change``: 95 % of scores move by less when each number moves by
        1 % of its deviation (in probability, or in deviations of the scores). ``leak_alone``: the AUC,
        or the share of variance, that the best single input reaches without any model.
    """
    import polars as pl

    rng = np.random.default_rng(seed)
    if rows.height > _MAX_ROWS:
        chosen = np.sort(rng.choice(rows.height, _MAX_ROWS, replace=False))
        rows, label_B = rows[chosen], np.asarray(label_B)[chosen]
    label_B = np.asarray(label_B, np.float64)
    score_B = np.asarray(score(rows), np.float64)
    unit = 1.0 if task == "binary" else float(score_B.std()) or 1.0
    base = float(_loss(label_B, score_B, task).mean())
    trials = []
    for name in inputs:
        gone = rows.with_columns(pl.lit(None, dtype=rows.schema[name]).alias(name))
        mixed = rows.with_columns(rows[name].gather(rng.permutation(rows.height)).alias(name))
        trials.append(
            InputTrial(
                name=name,
                missing_rise=float(_loss(label_B, score(gone), task).mean()) - base,
                shuffled_rise=float(_loss(label_B, score(mixed), task).mean()) - base,
                alone=leaks.alone(_plain(rows[name]), label_B, task),
            )
        )
    empty = rows.with_columns(pl.lit(None, dtype=rows.schema[name]).alias(name) for name in inputs)
    moved = np.abs(score(_perturbed(rows, numeric, rng)) - score_B) / unit
    metrics = {
        "missing_worst_rise": max(item.missing_rise for item in trials),
        "missing_all_finite": float(np.isfinite(score(empty)).mean()),
        "perturbed_change": float(np.quantile(moved, 0.95)),
        "leak_alone": max(item.alone for item in trials),
    }
    for behaviour in behaviours:
        metrics[f"behaviour.{behaviour.name}"] = _kept(behaviour, score, rows, score_B, unit)
    order = sorted(trials, key=lambda item: (-item.shuffled_rise, item.name))
    return Trials(metrics=metrics, inputs=tuple(order))


def against(
    label_B: NDArray[Any],
    score_B: NDArray[Any],
    production_B: NDArray[Any],
    task: Task,
    plan: EvaluationPlan,
) -> dict[str, float]:
    """Compare with the version in production on the same rows, row by row.

    Returns:
        ``production_loss``; ``production_rise``, the mean of this model's loss less production's;
        and its 95 % bootstrap interval, ``production_rise_low`` and ``_high``.
    """
    label_B = np.asarray(label_B, np.float64)
    theirs_B = _loss(label_B, np.asarray(production_B, np.float64), task)
    rise_B = _loss(label_B, np.asarray(score_B, np.float64), task) - theirs_B
    found = {"production_loss": float(theirs_B.mean()), "production_rise": float(rise_B.mean())}
    drawn = [float(weight_B @ rise_B / len(rise_B)) for weight_B in resamples(len(rise_B), plan)]
    if drawn:
        low, high = np.quantile(drawn, (0.025, 0.975))
        found |= {"production_rise_low": float(low), "production_rise_high": float(high)}
    return found


def _loss(label_B: NDArray[np.float64], score_B: NDArray[Any], task: Task) -> NDArray[np.float64]:
    score_B = np.asarray(score_B, np.float64)
    return row_log_loss(label_B, score_B) if task == "binary" else (score_B - label_B) ** 2


def _plain(values: pl.Series) -> pl.Series:
    """Numbers without NaN, or text."""
    import polars as pl

    if values.dtype.is_float():
        return values.fill_nan(None)
    return values if values.dtype.is_numeric() else values.cast(pl.String)


def _perturbed(
    rows: pl.DataFrame, numeric: Sequence[str], rng: np.random.Generator
) -> pl.DataFrame:
    import polars as pl

    moved = []
    for name in numeric:
        values = rows[name].cast(pl.Float64)
        spread: Any = values.fill_nan(None).std()
        moved.append(values + _NOISE * (spread or 0.0) * rng.normal(size=rows.height))
    return rows.with_columns(moved)


def _kept(
    behaviour: Behaviour,
    score: Score,
    rows: pl.DataFrame,
    score_B: NDArray[np.float64],
    unit: float,
) -> float:
    changed = behaviour.change(rows)
    require(
        changed.height == rows.height, f"behaviour {behaviour.name}", changed.height,
        f"must return as many rows as it is given, {rows.height}",
    )  # fmt: skip
    moved_B = (np.asarray(score(changed), np.float64) - score_B) / unit
    if behaviour.expect == "same":
        kept_B = np.abs(moved_B) <= behaviour.tolerance
    elif behaviour.expect == "not_lower":
        kept_B = moved_B >= -behaviour.tolerance
    else:
        kept_B = moved_B <= behaviour.tolerance
    return float(kept_B.mean())
