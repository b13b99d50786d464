"""The one predictor: what it refuses, and that one row and many rows agree."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from heliostat.errors import ConfigError, HeliostatError
from heliostat.inference.predictor import Predictor
from heliostat.registry.package import ModelInput
from heliostat.testing import packages

INPUTS = (
    ModelInput(name="size", kind="numeric"),
    ModelInput(name="colour", kind="categorical", vocabulary=("red", "7")),
    ModelInput(name="weight", kind="numeric"),
)


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    packages.write_package(tmp_path / "p", model="shapes", inputs=INPUTS, weights=[1.0, -0.5])
    return Predictor.load(tmp_path / "p", None)


def score(size: float, weight: float, code: int) -> float:
    return 1 / (1 + math.exp(-(size - 0.5 * weight + 0.01 * code)))


ROWS = [
    (1.5, "red", 2.0, score(1.5, 2.0, 2)),
    (None, "7", 1, score(0.0, 1.0, 3)),
    (float("nan"), None, -3.25, score(0.0, -3.25, 0)),
    (2, "violet", None, score(2.0, 0.0, 1)),
    (0.0, 7, 0.0, score(0.0, 0.0, 3)),
    (0.0, 7.0, 0.0, score(0.0, 0.0, 3)),
    (0.0, float("nan"), 0.0, score(0.0, 0.0, 0)),
]


def test_many_rows_are_scored_by_the_formula(predictor: Predictor) -> None:
    """Missing, unknown and numeric categories included."""
    scores = predictor.predict(
        {
            "size": [row[0] for row in ROWS],
            "colour": [row[1] for row in ROWS],
            "weight": [row[2] for row in ROWS],
        }
    )

    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, [row[3] for row in ROWS], atol=1e-6)


@pytest.mark.parametrize("row", ROWS)
def test_one_row_is_scored_as_among_many(predictor: Predictor, row: tuple[object, ...]) -> None:
    """The fast path for one row gives the same answer."""
    scores = predictor.predict({"weight": [row[2]], "colour": [row[1]], "size": [row[0]]})

    np.testing.assert_allclose(scores, [row[3]], atol=1e-6)


def test_arrays_are_taken_as_they_are(predictor: Predictor) -> None:
    """Batch scoring passes numpy columns."""
    scores = predictor.predict(
        {
            "size": np.array([1.5, np.nan]),
            "colour": np.array(["red", "violet"]),
            "weight": np.array([2, 0]),
        }
    )

    np.testing.assert_allclose(scores, [score(1.5, 2, 2), score(0, 0, 1)], atol=1e-6)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"size": [1], "color": ["red"], "weight": [1]},
            "inputs of shapes = 'color': is not an input; did you mean 'colour'?",
        ),
        ({"size": [1], "weight": [1]}, "inputs of shapes = ['colour']: must be given"),
        (
            {"size": [1, 2], "colour": ["red"], "weight": [1, 2]},
            "input colour = 1: must have 2 values",
        ),
        (
            {"size": [1], "colour": ["red", "red"], "weight": [1]},
            "input colour = 2: must have 1 values",
        ),
        (
            {"size": ["big"], "colour": ["red"], "weight": [1]},
            "input size = 'big': must be a number or missing",
        ),
        (
            {"size": [1, 1], "colour": ["red", "red"], "weight": [1, [2]]},
            "input weight = [2]: must be a number or missing",
        ),
    ],
)
def test_columns_that_do_not_fit_are_refused(
    predictor: Predictor, columns: dict[str, list[object]], message: str
) -> None:
    """The message names the input."""
    with pytest.raises(ConfigError) as caught:
        predictor.predict(columns)

    assert str(caught.value) == message


def test_a_signed_package_is_loaded_and_its_digest_known(tmp_path: Path) -> None:
    """The digest is what a policy names."""
    packages.write_package(
        tmp_path / "p", model="shapes", inputs=INPUTS, keys_dir=tmp_path / "keys"
    )

    predictor = Predictor.load(tmp_path / "p", tmp_path / "keys")

    assert predictor.digest.startswith("sha256:")
    assert Predictor.load(tmp_path / "p", tmp_path / "keys", digest=predictor.digest)
    with pytest.raises(ConfigError, match="must be sha256:0"):
        Predictor.load(tmp_path / "p", tmp_path / "keys", digest="sha256:0")


def test_a_changed_package_is_never_opened(tmp_path: Path) -> None:
    """Even when the change leaves a right network."""
    packages.write_package(
        tmp_path / "p", model="shapes", inputs=INPUTS, keys_dir=tmp_path / "keys"
    )
    packages.write_package(tmp_path / "p", model="shapes", inputs=INPUTS, bias=3.0)

    with pytest.raises(HeliostatError):
        Predictor.load(tmp_path / "p", tmp_path / "keys")


def test_a_network_of_another_width_is_refused(tmp_path: Path) -> None:
    """The description and the network are written apart and must agree."""
    packages.write_package(tmp_path / "p", model="shapes", inputs=INPUTS)
    packages.write_package(tmp_path / "q", model="shapes", inputs=INPUTS[:2])
    (tmp_path / "p" / "model.onnx").write_bytes((tmp_path / "q" / "model.onnx").read_bytes())

    with pytest.raises(ConfigError, match=r"must be {'numeric': 2, 'categorical': 1}"):
        Predictor.load(tmp_path / "p", None)
