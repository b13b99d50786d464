"""Write a fitted estimator as the ONNX network of a package: by skl2onnx, trees by `trees`.

Shapes: B rows, N numeric inputs, C categorical inputs.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from heliostat.errors import HeliostatError
from heliostat.inference import networks
from heliostat.registry.package import ModelInput
from heliostat.training import trees
from heliostat.training.trees import Forest

NETWORK, ANSWERS = "model.onnx", "answers.safetensors"
"""Files of a fitted estimator: its network, and what it answers to some rows."""

_EITHER = (True, False)
_OPSETS = {"": 18, "ai.onnx.ml": 3}


def convert(estimator: Any, inputs: Sequence[ModelInput], *, task: str, output: str) -> bytes:
    """Convert an estimator that takes (B, N + C) to a network that takes a package's tensors.

    Raises:
        HeliostatError: skl2onnx cannot convert a part of it.
    """
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    _register_trees()
    with warnings.catch_warnings():
        # Of scikit-learn's newer versions in general; answers are compared afterwards.
        warnings.simplefilter("ignore")
        try:
            model = convert_sklearn(
                estimator,
                initial_types=[(networks.TABLE, FloatTensorType([None, len(inputs)]))],
                options={id(estimator): {"zipmap": False}} if task == "binary" else None,
                target_opset=_OPSETS,
            )
        except Exception as error:
            # skl2onnx's own exceptions share no base class but Exception.
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise HeliostatError(
                f"train.model = {type(estimator).__name__}: must be one that skl2onnx converts,"
                f" since only its network is served, or train.pickle must be true; {first[:300]}"
            ) from error
    return networks.of_table(model, inputs, answer=-1, output=output)


def _register_trees() -> None:
    """Tell skl2onnx how trees are written; telling it again changes nothing."""
    from skl2onnx import update_registered_converter
    from skl2onnx.common import shape_calculator
    from sklearn import ensemble

    readers: dict[type, Callable[[Any], Forest]] = {
        ensemble.HistGradientBoostingClassifier: trees.of_histograms,
        ensemble.HistGradientBoostingRegressor: trees.of_histograms,
    }
    # Only whoever has made an XGBoost model needs it here.
    xgboost = sys.modules.get("xgboost")
    if xgboost is not None:
        readers |= {
            xgboost.XGBClassifier: trees.of_xgboost,
            xgboost.XGBRegressor: trees.of_xgboost,
        }
    for kind, reader in readers.items():
        is_classifier = hasattr(kind, "predict_proba")
        update_registered_converter(
            kind,
            f"Heliostat{kind.__name__}",
            shape_calculator.calculate_linear_classifier_output_shapes
            if is_classifier
            else shape_calculator.calculate_linear_regressor_output_shapes,
            _converter(reader),
            # The first is ours; skl2onnx asks each classifier for the others.
            options=dict.fromkeys(("zipmap", "nocl", "output_class_labels", "raw_scores"), _EITHER)
            if is_classifier
            else None,
        )


def _converter(reader: Callable[[Any], Forest]) -> Callable[..., None]:
    """What skl2onnx calls for one estimator: add the nodes that compute its outputs."""

    def convert_trees(scope: Any, operator: Any, container: Any) -> None:
        estimator = operator.raw_operator
        is_classifier = hasattr(estimator, "predict_proba")
        total = scope.get_unique_variable_name("total")
        target = total if is_classifier else operator.outputs[0].full_name
        container.add_node(
            "TreeEnsembleRegressor", [operator.inputs[0].full_name], [target],
            op_domain="ai.onnx.ml", op_version=1, name=scope.get_unique_operator_name("Trees"),
            **reader(estimator).attributes(),
        )  # fmt: skip
        if is_classifier:
            _add_classes(scope, container, total, [item.full_name for item in operator.outputs])

    return convert_trees


def _add_classes(scope: Any, container: Any, total: str, outputs: Sequence[str]) -> None:
    """Label, shape (B,), and probabilities of both classes, (B, 2), from a logit, (B, 1)."""
    from skl2onnx.proto import onnx_proto

    tensor = onnx_proto.TensorProto
    label, probabilities = outputs
    words = ("one", "less", "zero", "above", "column", "nothing", "flat")
    name = {word: scope.get_unique_variable_name(word) for word in words}
    container.add_initializer(name["nothing"], tensor.FLOAT, [1], [0.0])
    container.add_initializer(name["flat"], tensor.INT64, [1], [-1])
    for kind, take, give, more in (
        ("Sigmoid", [total], name["one"], {}),
        ("Neg", [total], name["less"], {}),
        ("Sigmoid", [name["less"]], name["zero"], {}),
        ("Concat", [name["zero"], name["one"]], probabilities, {"axis": 1}),
        ("Greater", [total, name["nothing"]], name["above"], {}),
        ("Cast", [name["above"]], name["column"], {"to": tensor.INT64}),
        ("Reshape", [name["column"], name["flat"]], label, {}),
    ):
        container.add_node(
            kind, take, [give], op_version=13, name=scope.get_unique_operator_name(kind), **more
        )
