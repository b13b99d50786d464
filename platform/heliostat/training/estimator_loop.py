"""Fit an estimator in one worker: measured as a network is, kept as ONNX or, if asked, a pickle.

Shapes: B rows, N numeric inputs, C categorical inputs.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from heliostat.config import require
from heliostat.inference.estimator import Fitted, table
from heliostat.registry import pickles
from heliostat.registry.package import MISSING_CODE, UNKNOWN_CODE
from heliostat.training import estimator_onnx
from heliostat.training.evaluate import row_log_loss
from heliostat.training.oddities import with_oddities
from heliostat.training.recipe import TrainRecipe
from heliostat.training.rows import PreparedRows, Tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from heliostat.training.session import Session

_SAMPLE_ROWS = 500
_OUTPUT = "score"


def train(session: Session) -> None:
    """Fit, measure, keep; a training that is whole already is left alone."""
    if session.is_fitted:
        return
    recipe, rows = session.recipe, session.rows
    learn, held = rows.read_train(), rows.read_validation()
    fitted = fit(recipe, rows, learn)
    metrics = {"train_loss": _mean_loss(fitted, learn)}
    if len(held.label_B):
        metrics["validation_loss"] = _mean_loss(fitted, held)
        for step, loss in _curve(fitted, held):
            if recipe.log_every_steps and step % recipe.log_every_steps == 0:
                session.log(step, {"validation_loss": loss})
    session.end_fit(
        metrics, lambda folder: write(fitted, rows, learn, folder, pickled=recipe.pickle)
    )


def fit(recipe: TrainRecipe, rows: PreparedRows, learn: Tensors) -> Fitted:
    """Make the recipe's estimator and fit it.

    Raises:
        ConfigError: The recipe's model makes no estimator for its task.
    """
    estimator = recipe.model(rows.inputs, task=recipe.task, **recipe.params)
    need = "predict_proba" if recipe.task == "binary" else "predict"
    require(
        hasattr(estimator, "fit") and hasattr(estimator, need),
        "train.model", type(estimator).__name__, f"must make an estimator with fit and {need}",
    )  # fmt: skip
    unset = {
        name: recipe.seed
        for name, value in estimator.get_params().items()
        if value is None and name.split("__")[-1] == "random_state"
    }
    estimator.set_params(**unset)
    codes_BC = _with_unknown(recipe, learn.categorical_BC)
    label_B = learn.label_B.astype(np.int64 if recipe.task == "binary" else np.float64)
    estimator.fit(table(learn.numeric_BN, codes_BC), label_B)
    return Fitted(estimator=estimator, task=recipe.task)


def write(
    fitted: Fitted, rows: PreparedRows, learn: Tensors, folder: Path, *, pickled: bool = False
) -> None:
    """Write the network, and the estimator's own answers, which the network must repeat.

    The rows are real ones, half of them with something missing if there are so many, and
    some far from the usual.
    """
    import safetensors.numpy

    if pickled:
        content = pickle.dumps({"estimator": fitted.estimator, "task": fitted.task}, protocol=5)
        (folder / pickles.ALLOWED).write_bytes(content)
    else:
        content = estimator_onnx.convert(
            fitted.estimator, rows.inputs, task=fitted.task, output=_OUTPUT
        )
        (folder / estimator_onnx.NETWORK).write_bytes(content)
    gone_B = np.isnan(learn.numeric_BN).any(axis=1)
    gone_B |= (learn.categorical_BC == MISSING_CODE).any(axis=1)
    half = np.flatnonzero(gone_B)[: _SAMPLE_ROWS // 2]
    chosen = np.concatenate([half, np.flatnonzero(~gone_B)[: _SAMPLE_ROWS - len(half)]])
    numeric_BN, categorical_BC = with_oddities(
        rows.inputs, rows.statistics, learn.numeric_BN[chosen], learn.categorical_BC[chosen]
    )
    safetensors.numpy.save_file(
        {
            "numeric": numeric_BN,
            "categorical": categorical_BC,
            "score": fitted.answers(numeric_BN, categorical_BC),
        },
        folder / estimator_onnx.ANSWERS,
    )


def _mean_loss(fitted: Fitted, rows: Tensors) -> float:
    return _loss(fitted.task, rows, fitted.answers(rows.numeric_BN, rows.categorical_BC))


def _loss(task: str, rows: Tensors, score_B: NDArray[np.float64]) -> float:
    if task == "binary":
        return float(row_log_loss(rows.label_B, score_B).mean())
    return float(((score_B - rows.label_B) ** 2).mean())


def _curve(fitted: Fitted, held: Tensors) -> Iterator[tuple[int, float]]:
    """Loss on rows held back after each round of boosting, where the estimator tells it."""
    estimator = fitted.estimator
    table_BX: Any = table(held.numeric_BN, held.categorical_BC)
    if hasattr(estimator, "steps"):
        table_BX, estimator = estimator[:-1].transform(table_BX), estimator[-1]
    word = "staged_predict_proba" if fitted.task == "binary" else "staged_predict"
    staged: Callable[[Any], Any] | None = getattr(estimator, word, None)
    if staged is None:
        return
    for step, found in enumerate(staged(table_BX), start=1):
        score_B = found[:, 1] if fitted.task == "binary" else found
        yield step, _loss(fitted.task, held, np.asarray(score_B, np.float64))


def _with_unknown(recipe: TrainRecipe, categorical_BC: NDArray[np.int64]) -> NDArray[np.int64]:
    """Hide some categories, so that unknown ones mean something, as in networks."""
    rng = np.random.default_rng((recipe.seed, UNKNOWN_CODE))
    hidden_BC = rng.random(categorical_BC.shape) < recipe.unknown_ratio
    found_BC: NDArray[np.int64] = np.where(hidden_BC, UNKNOWN_CODE, categorical_BC)
    return found_BC
