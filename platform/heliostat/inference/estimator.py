"""What a fitted estimator answers. Shapes: B rows, N numeric inputs, C categorical inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from heliostat.inference import networks

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """An estimator that has learned."""

    estimator: Any
    task: str

    def answers(
        self, numeric_BN: NDArray[np.float32], categorical_BC: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Probabilities, or numbers in the label's unit, shape (B,)."""
        table_BX = table(numeric_BN, categorical_BC)
        if self.task == "binary":
            found = self.estimator.predict_proba(table_BX)[:, 1]
        else:
            found = self.estimator.predict(table_BX)
        # A copy in one piece: safetensors writes a view of a column as if it were that.
        return np.array(found, np.float64, order="C").reshape(-1)


def table(
    numeric_BN: NDArray[np.float32], categorical_BC: NDArray[np.int64]
) -> NDArray[np.float32]:
    """What an estimator is given, shape (B, N + C)."""
    # np.clip leaves NaN alone.
    cut_BN = np.clip(numeric_BN, -networks.LARGEST, networks.LARGEST).astype(np.float32)
    return np.concatenate([cut_BN, categorical_BC.astype(np.float32)], axis=1)
