"""Find columns that know the label: alone they predict it better than real inputs do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from heliostat.training.evaluate import auc

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

AUC_LIMIT = 0.99
"""One column alone that ranks a label this well is more likely its consequence than its cause."""

SHARE_LIMIT = 0.99
"""Likewise for a number: share of its variance that one column explains."""

_MAX_ROWS = 50_000


def suspicion(
    values: pl.Series, label_B: NDArray[np.float64], task: Literal["binary", "regression"]
) -> str | None:
    """Say why a column looks as if it were made from the label; None if it does not.

    Args:
        values: Numbers or text, as many as there are labels, missing where null.
        label_B: Known labels, shape (B,).
        task: Whether they are 0 and 1, or numbers.
    """
    values, label_B = values[:_MAX_ROWS], label_B[:_MAX_ROWS]
    absent_B = values.is_null().to_numpy()
    numbers_B = _numbers(values, label_B)
    if task == "binary":
        alone = _auc(label_B, numbers_B)
        if alone >= AUC_LIMIT:
            return f"alone it ranks the label with AUC {alone:.3f}"
        gone = _auc(label_B, absent_B.astype(np.float64))
        if gone >= AUC_LIMIT:
            return f"whether it is missing tells the label, AUC {gone:.3f}"
        return None
    share = _share(label_B, numbers_B)
    return f"alone it explains {share:.1%} of the label" if share >= SHARE_LIMIT else None


def alone(
    values: pl.Series, label_B: NDArray[np.float64], task: Literal["binary", "regression"]
) -> float:
    """How well a column predicts the label by itself: its AUC, or the share that it explains."""
    numbers_B = _numbers(values[:_MAX_ROWS], label_B[:_MAX_ROWS])
    return (_auc if task == "binary" else _share)(label_B[:_MAX_ROWS], numbers_B)


def _numbers(values: pl.Series, label_B: NDArray[np.float64]) -> NDArray[np.float64]:
    """Numbers as they are, the missing ones below all others; text by its mean label.

    The mean comes from the other half of the rows: a value that is there once says nothing.
    """
    import polars as pl

    if values.dtype.is_numeric():
        found = values.cast(pl.Float64)
        low: Any = found.min()
        return found.fill_null((low or 0.0) - 1.0).to_numpy()
    half = np.arange(len(values)) % 2
    frame = pl.DataFrame({"value": values.fill_null("(missing)"), "label": label_B, "half": half})
    means = frame.group_by("value", (1 - pl.col("half")).alias("half")).agg(
        mean=pl.col("label").mean()
    )
    joined = frame.join(means, on=["value", "half"], how="left", maintain_order="left")
    return joined["mean"].fill_null(float(label_B.mean())).to_numpy()


def _auc(label_B: NDArray[np.float64], numbers_B: NDArray[np.float64]) -> float:
    found = auc(label_B, numbers_B)
    return max(found, 1 - found) if np.isfinite(found) else 0.5


def _share(label_B: NDArray[np.float64], numbers_B: NDArray[np.float64]) -> float:
    """Squared correlation, of the values or of their ranks, whichever is larger."""
    shares = []
    for one, other in (
        (label_B, numbers_B),
        (np.argsort(np.argsort(label_B)), np.argsort(np.argsort(numbers_B))),
    ):
        if np.std(one) > 0 and np.std(other) > 0:
            shares.append(float(np.corrcoef(one, other)[0, 1] ** 2))
    return max(shares, default=0.0)
