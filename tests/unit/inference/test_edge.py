"""An edge bundle answers as its package does, with onnxruntime and numpy alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from heliostat.errors import ConfigError
from heliostat.inference.edge import EdgeReport, export
from heliostat.inference.predictor import Predictor
from heliostat.registry import signing
from heliostat.registry.package import ModelInput, PackageDescription

INPUTS = (
    *(ModelInput(name=f"n{number}", kind="numeric") for number in range(6)),
    ModelInput(name="color", kind="categorical", vocabulary=("red", "7")),
)
ROWS = [
    {**{f"n{number}": number - 2.5 for number in range(6)}, "color": "red"},
    {**{f"n{number}": 1.0 for number in range(6)}, "color": 7.0},
    {**{f"n{number}": -1.0 for number in range(6)}, "color": None},
    {**{f"n{number}": 0.25 for number in range(6)}, "color": "violet"},
]


def _package(folder: Path, keys: Path) -> Path:
    """A network of two layers, 6 x 256 and 256 x 1, with an embedding; signed."""
    rng = np.random.default_rng(3)
    constants = {
        "first": rng.normal(0, 0.3, (10, 256)),
        "second": rng.normal(0, 0.1, (256, 1)),
        "table": rng.normal(0, 1, (4, 4)),
    }
    nodes = [
        helper.make_node("Gather", ["table", "categorical"], ["found"]),
        helper.make_node("Flatten", ["found"], ["embedded"]),
        helper.make_node("Concat", ["numeric", "embedded"], ["row"], axis=1),
        helper.make_node("MatMul", ["row", "first"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("MatMul", ["active", "second"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["chance"]),
        helper.make_node("Flatten", ["chance"], ["flat"], axis=0),
        helper.make_node("Squeeze", ["flat", "axis"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "two_layers",
        [
            helper.make_tensor_value_info("numeric", TensorProto.FLOAT, ["B", 6]),
            helper.make_tensor_value_info("categorical", TensorProto.INT64, ["B", 1]),
        ],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["B"])],
        [
            *(numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()),
            numpy_helper.from_array(np.array([0], np.int64), "axis"),
        ],
    )
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    folder.mkdir()
    (folder / "model.onnx").write_bytes(network.SerializeToString())
    onnx.checker.check_model(network)
    PackageDescription(model="tiny", inputs=INPUTS, output="score", features=None).write(folder)
    signing.create_key(keys)
    signing.sign(folder, keys)
    return folder


def _export(tmp_path: Path, tolerance: float) -> tuple[Predictor, EdgeReport]:
    keys = tmp_path / "keys"
    package = _package(tmp_path / "package", keys)
    predictor = Predictor.load(package, keys)
    rng = np.random.default_rng(0)
    report = export(
        package, keys, tmp_path / "edge", tolerance=tolerance,
        numeric_BN=rng.normal(size=(500, 6)).astype(np.float32),
        categorical_BC=rng.integers(0, 4, (500, 1)),
    )  # fmt: skip
    return predictor, report


def _alone(tmp_path: Path, rows: list[dict[str, object]]) -> subprocess.CompletedProcess[str]:
    """Run the bundle's script where only numpy and onnxruntime can be imported."""
    site = tmp_path / "site"
    site.mkdir(exist_ok=True)
    found = Path(np.__file__).parents[1]
    for name in ("numpy", "numpy.libs", "onnxruntime"):
        if (found / name).exists() and not (site / name).exists():
            (site / name).symlink_to(found / name)
    script = f"import sys, runpy; sys.path.insert(0, {str(site)!r}); "
    script += f"runpy.run_path({str(tmp_path / 'edge' / 'predict.py')!r}, run_name='__main__')"
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=False,
        input="".join(json.dumps(row) + "\n" for row in rows),
    )  # fmt: skip


def test_a_bundle_is_smaller_signed_and_answers_the_same_on_its_own(tmp_path: Path) -> None:
    """Quantised, within the tolerance; missing, unknown and whole-number categories included."""
    predictor, report = _export(tmp_path, tolerance=0.05)

    assert report.quantised, report.because
    assert report.size_bytes < 0.6 * report.size_before_bytes
    assert 0 < report.largest_difference <= 0.05
    assert report.digest == signing.verify(tmp_path / "edge", tmp_path / "keys")
    done = _alone(tmp_path, ROWS)
    assert done.returncode == 0, done.stderr
    expected = [float(predictor.predict({k: [v] for k, v in row.items()})[0]) for row in ROWS]
    np.testing.assert_allclose([float(line) for line in done.stdout.split()], expected, atol=0.05)


def test_a_network_that_loses_too_much_stays_as_it_is(tmp_path: Path) -> None:
    """The report says so, and the answers are those of the package."""
    _, report = _export(tmp_path, tolerance=0.0)

    assert (report.quantised, report.largest_difference) == (False, 0.0)
    assert report.size_bytes == report.size_before_bytes
    assert "answers change by at most" in report.because


def test_a_changed_bundle_answers_nothing(tmp_path: Path) -> None:
    """The script checks its files before it opens them."""
    _export(tmp_path, tolerance=0.05)
    network = tmp_path / "edge" / "model.onnx"
    network.write_bytes(network.read_bytes() + b"\0")

    done = _alone(tmp_path, ROWS)

    assert done.returncode == 1
    assert "model.onnx: must be the file that was exported" in done.stderr


def test_a_bundle_is_not_written_over(tmp_path: Path) -> None:
    """A folder with anything in it is refused."""
    (tmp_path / "edge").mkdir()
    (tmp_path / "edge" / "old").write_text("x")

    with pytest.raises(ConfigError, match="must be empty"):
        _export(tmp_path, tolerance=0.05)
