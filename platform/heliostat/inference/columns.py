"""Score whole tables with a package: the served network, at the speed of columns.

Shapes: B rows, N numeric inputs, C categorical inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from heliostat.errors import ConfigError, nearest
from heliostat.inference.predictor import Predictor, codes
from heliostat.registry.package import MISSING_CODE, UNKNOWN_CODE, ModelInput

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


def encode(
    frame: pl.DataFrame, inputs: Sequence[ModelInput]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Turn columns into the network's tensors, shapes (B, N) and (B, C).

    The same codes as `Predictor.encode` gives, at the speed of whole columns.

    Raises:
        ConfigError: A column is missing or holds text where numbers belong.
    """
    import polars as pl

    numeric = [item for item in inputs if item.kind == "numeric"]
    categorical = [item for item in inputs if item.kind == "categorical"]
    numeric_BN = np.empty((frame.height, len(numeric)), np.float32)
    for index, item in enumerate(numeric):
        values = column(frame, item.name)
        if not (values.dtype.is_numeric() or values.dtype in {pl.Boolean, pl.Null}):
            raise ConfigError(f"input {item.name}", str(values.dtype), "must be a number column")
        numeric_BN[:, index] = values.cast(pl.Float32).to_numpy(allow_copy=True)
    categorical_BC = np.empty((frame.height, len(categorical)), np.int64)
    for index, item in enumerate(categorical):
        known = {text: code for text, code in codes(item.vocabulary).items() if text is not None}
        text = texts(frame, item.name)
        coded = text.replace_strict(
            list(known), list(known.values()), default=UNKNOWN_CODE, return_dtype=pl.Int64
        ) if known else pl.repeat(UNKNOWN_CODE, frame.height, dtype=pl.Int64, eager=True)  # fmt: skip
        categorical_BC[:, index] = np.where(
            text.is_null().to_numpy(), MISSING_CODE, coded.to_numpy()
        )
    return numeric_BN, categorical_BC


def texts(frame: pl.DataFrame, name: str) -> pl.Series:
    """Categories as the predictor would look them up: by text, whole numbers without a dot."""
    import polars as pl

    found = column(frame, name)
    if found.dtype == pl.Boolean:
        return found.replace_strict([True, False], ["True", "False"], return_dtype=pl.String)
    if found.dtype.is_float():
        found = found.fill_nan(None)
        values = found.drop_nulls().unique().to_list()
        words = [str(int(value)) if value.is_integer() else str(value) for value in values]
        return found.replace_strict(values, words, default=None, return_dtype=pl.String)
    if found.dtype.is_nested() or found.dtype.is_temporal():
        raise ConfigError(f"input {name}", str(found.dtype), "must be a text or integer column")
    return found.cast(pl.String)


def column(frame: pl.DataFrame, name: str) -> pl.Series:
    """Take a column.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in frame.columns:
        raise ConfigError(
            "column", name, "must be in the rows", breaks=nearest(name, frame.columns)
        )
    return frame[name]
