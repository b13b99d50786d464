"""Rows far from the usual, on which an export must agree with what was trained; pure.

Shapes: B rows, N numeric inputs, C categorical inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from heliostat.registry.package import ModelInput
from heliostat.training.rows import Statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

NUM_ODD = 500


def with_oddities(
    inputs: Sequence[ModelInput],
    statistics: Statistics,
    numeric_BN: NDArray[np.float32],
    categorical_BC: NDArray[np.int64],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Add `NUM_ODD` rows: missing and huge numbers, any category, missing and unknown too."""
    rng = np.random.default_rng(0)
    shape = (NUM_ODD, len(statistics.mean))
    odd_BN = rng.normal(statistics.mean, 3 * np.asarray(statistics.deviation), shape)
    odd_BN[rng.random(shape) < 0.2] = np.nan
    odd_BN[0] = np.nan
    odd_BN[1] = 1e30
    sizes = [len(item.vocabulary) + 2 for item in inputs if item.kind == "categorical"]
    odd_BC = rng.integers(0, sizes, (NUM_ODD, len(sizes)))
    return (
        np.concatenate([numeric_BN, odd_BN.astype(np.float32)]),
        np.concatenate([categorical_BC, odd_BC.astype(np.int64)]),
    )
