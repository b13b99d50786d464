"""Estimator factories for recipes to name; scikit-learn is loaded when one is called, not before.

An own factory has the same form: it is called as ``factory(inputs, task=task, **params)`` and
returns an object with ``fit(X, y)`` and ``predict_proba`` (binary) or ``predict`` (regression).
Its X is float32 (B, N + C): N numbers, NaN where missing, then C category codes as in
`registry.package`. A ``random_state`` that is None is set from the recipe's seed. Whatever
skl2onnx converts can be served, pipelines too, and besides it the trees of
``HistGradientBoosting...`` and of XGBoost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from heliostat.registry.package import ModelInput


def boosted_trees(
    inputs: Sequence[ModelInput],
    *,
    task: str,
    rounds: int = 200,
    learning_rate: float = 0.1,
    leaves: int = 31,
    leaf_min_rows: int = 20,
    l2: float = 0.0,
) -> Any:
    """Gradient boosting on histograms (scikit-learn); missing numbers take a side of their own.

    A category counts by the mean label of its rows, fitted across folds so that no row sees its
    own label; a missing one has a mean of its own.

    Args:
        inputs: Inputs, numeric ones first.
        task: binary or regression.
        rounds: Number of trees.
        learning_rate: What each tree may add.
        leaves: Most leaves of a tree.
        leaf_min_rows: Least rows of a leaf.
        l2: Penalty on what leaves say.
    """
    from sklearn import ensemble

    kind: Any = (
        ensemble.HistGradientBoostingClassifier
        if task == "binary"
        else ensemble.HistGradientBoostingRegressor
    )
    trees = kind(
        max_iter=rounds, learning_rate=learning_rate, max_leaf_nodes=leaves,
        min_samples_leaf=leaf_min_rows, l2_regularization=l2, early_stopping=False,
    )  # fmt: skip
    return with_categories_as_numbers(inputs, trees, task=task)


def xgboost_trees(
    inputs: Sequence[ModelInput],
    *,
    task: str,
    rounds: int = 200,
    learning_rate: float = 0.1,
    depth: int = 6,
    child_weight: float = 1.0,
    l2: float = 1.0,
) -> Any:
    """Gradient boosting by XGBoost, with categories as in `boosted_trees`.

    Needs the extra ``boosting``.

    Args:
        inputs: Inputs, numeric ones first.
        task: binary or regression.
        rounds: Number of trees.
        learning_rate: What each tree may add.
        depth: Most questions on the way to a leaf.
        child_weight: Least weight of a leaf's rows.
        l2: Penalty on what leaves say.
    """
    import xgboost

    kind: Any = xgboost.XGBClassifier if task == "binary" else xgboost.XGBRegressor
    trees = kind(
        n_estimators=rounds, learning_rate=learning_rate, max_depth=depth,
        min_child_weight=child_weight, reg_lambda=l2, tree_method="hist",
        objective="binary:logistic" if task == "binary" else "reg:squarederror",
    )  # fmt: skip
    return with_categories_as_numbers(inputs, trees, task=task)


def linear(inputs: Sequence[ModelInput], *, task: str, penalty: float = 1.0) -> Any:
    """Logistic or ridge regression: the mean for missing numbers, a weight for each category.

    Args:
        inputs: Inputs, numeric ones first.
        task: binary or regression.
        penalty: On the weights; more keeps them smaller.
    """
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    last = (
        LogisticRegression(C=1 / penalty, max_iter=1000)
        if task == "binary"
        else Ridge(alpha=penalty)
    )
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    return _pipeline(inputs, numbers, OneHotEncoder(handle_unknown="ignore"), last)


def with_categories_as_numbers(
    inputs: Sequence[ModelInput], estimator: Any, *, task: str
) -> Any:  # fmt: skip
    """Put an estimator behind an encoder of categories; numbers pass as they are."""
    from sklearn.preprocessing import TargetEncoder

    encoder = TargetEncoder(target_type="binary" if task == "binary" else "continuous")
    return _pipeline(inputs, "passthrough", encoder, estimator)


def _pipeline(inputs: Sequence[ModelInput], numbers: Any, categories: Any, last: Any) -> Any:
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import make_pipeline

    num_numeric = sum(item.kind == "numeric" for item in inputs)
    parts = [
        (name, how, columns)
        for name, how, columns in (
            ("numbers", numbers, list(range(num_numeric))),
            ("categories", categories, list(range(num_numeric, len(inputs)))),
        )
        if columns
    ]
    return make_pipeline(ColumnTransformer(parts), last)
