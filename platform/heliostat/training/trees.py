"""Boosted trees as the attributes of ONNX's tree nodes: exact splits, missing values included.

skl2onnx 1.20 cannot write the histogram trees of scikit-learn 1.9 and knows no XGBoost. Both
compare float32 numbers with thresholds, so that each row falls into the very leaf that it falls
into where it was trained; only the sum over trees may differ by rounding.

Shapes: K nodes of one tree.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from heliostat.config import require
from heliostat.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """One tree; node 0 is its root, and what a leaf holds besides its value means nothing."""

    is_leaf_K: NDArray[np.bool_]  # noqa: N815 - shape letters
    input_K: NDArray[np.int64]  # noqa: N815
    """Column that is compared."""
    threshold_K: NDArray[np.float32]  # noqa: N815
    low_K: NDArray[np.int64]  # noqa: N815
    """Node of rows at or below the threshold, or below it; see `Forest.mode`."""
    high_K: NDArray[np.int64]  # noqa: N815
    missing_low_K: NDArray[np.bool_]  # noqa: N815
    """Whether rows without a value go to `low_K`."""
    value_K: NDArray[np.float32]  # noqa: N815


@dataclass(frozen=True, kw_only=True, slots=True)
class Forest:
    """Trees whose values are added up."""

    base: float
    mode: str
    """``BRANCH_LEQ`` or ``BRANCH_LT``."""
    trees: tuple[Tree, ...]

    def attributes(self) -> dict[str, Any]:
        """Attributes of a ``TreeEnsembleRegressor`` with one target, as plain values."""
        found: dict[str, Any] = {
            name: []
            for name in (
                *(f"nodes_{part}" for part in (
                    "treeids", "nodeids", "featureids", "modes", "values", "truenodeids",
                    "falsenodeids", "missing_value_tracks_true", "hitrates",
                )),
                *(f"target_{part}" for part in ("treeids", "nodeids", "ids", "weights")),
            )
        }  # fmt: skip
        for number, tree in enumerate(self.trees):
            nodes = range(len(tree.is_leaf_K))
            leaves = np.flatnonzero(tree.is_leaf_K).tolist()
            found["nodes_treeids"] += [number] * len(nodes)
            found["nodes_nodeids"] += list(nodes)
            found["nodes_hitrates"] += [1.0] * len(nodes)
            found["nodes_modes"] += ["LEAF" if leaf else self.mode for leaf in tree.is_leaf_K]
            for name, values_K in (
                ("featureids", tree.input_K),
                ("values", tree.threshold_K),
                ("truenodeids", tree.low_K),
                ("falsenodeids", tree.high_K),
                ("missing_value_tracks_true", tree.missing_low_K.astype(np.int64)),
            ):
                found[f"nodes_{name}"] += np.where(tree.is_leaf_K, 0, values_K).tolist()
            found["target_treeids"] += [number] * len(leaves)
            found["target_nodeids"] += leaves
            found["target_ids"] += [0] * len(leaves)
            found["target_weights"] += tree.value_K[leaves].tolist()
        return {**found, "n_targets": 1, "base_values": [self.base], "post_transform": "NONE"}


def of_histograms(estimator: Any) -> Forest:
    """Read scikit-learn's fitted ``HistGradientBoosting...``.

    Raises:
        ConfigError: It has several outputs, or splits by categories of its own.
    """
    rounds = estimator._predictors
    where = "train.model"
    require(all(len(trees) == 1 for trees in rounds), where, "several outputs", "must have one")
    trees = []
    for (predictor,) in rounds:
        nodes = predictor.nodes
        require(
            not nodes["is_categorical"].any(), where, "categorical_features",
            "must not be set; turn codes into numbers before, as `estimators.boosted_trees` does",
        )  # fmt: skip
        trees.append(
            Tree(
                is_leaf_K=nodes["is_leaf"].astype(bool),
                input_K=nodes["feature_idx"].astype(np.int64),
                threshold_K=_rounded_down(nodes["num_threshold"]),
                low_K=nodes["left"].astype(np.int64),
                high_K=nodes["right"].astype(np.int64),
                missing_low_K=nodes["missing_go_to_left"].astype(bool),
                value_K=nodes["value"].astype(np.float32),
            )
        )
    base = float(np.ravel(estimator._baseline_prediction)[0])
    return Forest(base=base, mode="BRANCH_LEQ", trees=tuple(trees))


def of_xgboost(estimator: Any) -> Forest:
    """Read XGBoost's fitted ``XGBClassifier`` or ``XGBRegressor``.

    Raises:
        ConfigError: Its booster, objective or splits are not ones that ONNX's trees express.
    """
    booster = estimator.get_booster()
    best = getattr(estimator, "best_iteration", None) if estimator.early_stopping_rounds else None
    if best is not None:
        booster = booster[: best + 1]
    learner = json.loads(bytes(booster.save_raw(raw_format="json")))["learner"]
    where, kind = "train.params", learner["gradient_booster"]["name"]
    require(kind == "gbtree", f"{where}.booster", kind, "must be gbtree")
    objective = learner["objective"]["name"]
    known = ("binary:logistic", "reg:squarederror")
    require(objective in known, f"{where}.objective", objective, f"must be one of {known}")
    base = json.loads(learner["learner_model_param"]["base_score"].lower())
    base = float(base[0] if isinstance(base, list) else base)
    if objective == "binary:logistic":
        base = math.log(base / (1 - base))
    trees = tuple(map(_of_json, learner["gradient_booster"]["model"]["trees"]))
    return Forest(base=base, mode="BRANCH_LT", trees=trees)


def _of_json(tree: dict[str, Any]) -> Tree:
    if any(tree["split_type"]):
        raise ConfigError(
            "train.params.enable_categorical", True, "must be off; codes are turned into numbers"
        )
    low_K = np.array(tree["left_children"], np.int64)
    conditions_K = np.array(tree["split_conditions"], np.float32)
    return Tree(
        is_leaf_K=low_K < 0,
        input_K=np.array(tree["split_indices"], np.int64),
        threshold_K=conditions_K,
        low_K=low_K,
        high_K=np.array(tree["right_children"], np.int64),
        missing_low_K=np.array(tree["default_left"], bool),
        # XGBoost keeps a leaf's value where other nodes have their threshold.
        value_K=conditions_K,
    )


def _rounded_down(threshold_K: NDArray[np.float64]) -> NDArray[np.float32]:
    """The largest float32 that is not above: the same numbers are at or below it."""
    with np.errstate(over="ignore"):
        near_K = threshold_K.astype(np.float32)
    low_K: NDArray[np.float32] = np.where(
        near_K > threshold_K, np.nextafter(near_K, np.float32(-np.inf)), near_K
    )
    return low_K
