"""Score whole tables with a package: the served network, at the speed of columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from heliostat.inference.predictor import Predictor
from heliostat.training.rows import encode

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

_ROWS_PER_CALL = 8192


def score(predictor: Predictor, frame: pl.DataFrame) -> NDArray[np.float32]:
    """Score every row; the same answers as `Predictor.predict` gives row by row.

    Args:
        predictor: A loaded package.
        frame: Has a column for each input; others are not looked at.

    Returns:
        Scores in the order of the rows, shape (B,).

    Raises:
        ConfigError: A column is missing or of the wrong kind.
    """
    numeric_BN, categorical_BC = encode(frame, predictor.description.inputs)
    parts = [
        predictor.run(
            numeric_BN[start : start + _ROWS_PER_CALL],
            categorical_BC[start : start + _ROWS_PER_CALL],
        )
        for start in range(0, frame.height, _ROWS_PER_CALL)
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)
