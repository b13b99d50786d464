"""Make a bundle for devices: a smaller network, a script that needs onnxruntime alone, a signature.

Shapes: B rows, N numeric inputs, C categorical inputs.
"""

from __future__ import annotations

import hashlib
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from heliostat.config import require
from heliostat.inference.predictor import Predictor
from heliostat.registry import signing
from heliostat.registry.package import PackageDescription

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SCRIPT = Path(__file__).with_name("edge_predict.py")
_TIMED_ROWS = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class EdgeReport:
    """What an export made of a package."""

    folder: Path
    digest: str
    """Content digest of the signed bundle."""
    quantised: bool
    """Whether weights are 8-bit integers; if not, the network is the package's own."""
    because: str
    """Why, in words."""
    size_bytes: int
    """Of the network in the bundle."""
    size_before_bytes: int
    largest_difference: float
    """Between the answers of package and bundle, over the rows given."""
    rows: int
    latency_ms: float
    """Median of one row, on this machine, one thread."""
    latency_before_ms: float


def export(
    package: Path,
    keys: Path,
    target: Path,
    *,
    numeric_BN: NDArray[np.float32],
    categorical_BC: NDArray[np.int64],
    tolerance: float = 0.01,
) -> EdgeReport:
    """Write a signed bundle of a verified package.

    Weights are quantised to 8 bits where the bundle gets smaller by that and no answer changes by
    more than `tolerance`; otherwise the network stays as it is.

    Args:
        package: Signed package.
        keys: Folder of keys: verifies the package, signs the bundle.
        target: New folder.
        numeric_BN: Rows on which the answers are compared, as `Predictor.encode` gives them.
        categorical_BC: Likewise.
        tolerance: Largest change of an answer, in its own unit.

    Raises:
        UntrustedModel: The package is not what was signed.
        ConfigError: The target is not empty, there are no rows, or the package holds a pickle.
    """
    require(len(numeric_BN) > 0, "edge rows", len(numeric_BN), "must be at least one")
    target.mkdir(parents=True, exist_ok=True)
    require(not any(target.iterdir()), "edge bundle", str(target), "must be empty")
    before = Predictor.load(package, keys, device="cpu")
    require(
        before.description.network == "onnx", "edge package", before.description.network,
        "must hold an ONNX network; devices open no pickles",
    )  # fmt: skip
    answers_B = before.run(numeric_BN, categorical_BC)
    network = target / "model.onnx"
    _quantise(package / "model.onnx", network)
    PackageDescription.read(package).write(target)
    size_before = (package / "model.onnx").stat().st_size
    size = network.stat().st_size
    gap = _gap(target, answers_B, numeric_BN, categorical_BC)
    quantised = size < size_before and gap <= tolerance
    because = f"{size:,} of {size_before:,} bytes, answers change by at most {gap:.2g}"
    if not quantised:
        shutil.copyfile(package / "model.onnx", network)
        gap = _gap(target, answers_B, numeric_BN, categorical_BC)
    shutil.copyfile(_SCRIPT, target / "predict.py")
    _write_sums(target)
    after = Predictor.load(target, None, device="cpu")
    return EdgeReport(
        folder=target,
        digest=signing.sign(target, keys),
        quantised=quantised,
        because=because,
        size_bytes=network.stat().st_size,
        size_before_bytes=size_before,
        largest_difference=gap,
        rows=len(numeric_BN),
        latency_ms=_latency_ms(lambda row: after.run(*row), numeric_BN, categorical_BC),
        latency_before_ms=_latency_ms(lambda row: before.run(*row), numeric_BN, categorical_BC),
    )


def _quantise(source: Path, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(source, target, weight_type=QuantType.QInt8, per_channel=True)


def _gap(
    folder: Path,
    answers_B: NDArray[np.float32],
    numeric_BN: NDArray[np.float32],
    categorical_BC: NDArray[np.int64],
) -> float:
    found_B = Predictor.load(folder, None, device="cpu").run(numeric_BN, categorical_BC)
    return float(np.abs(found_B - answers_B).max())


def _write_sums(folder: Path) -> None:
    lines = [
        f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
        for name in ("model.json", "model.onnx")
    ]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def _latency_ms(
    run: Callable[[tuple[Any, Any]], object],
    numeric_BN: NDArray[np.float32],
    categorical_BC: NDArray[np.int64],
) -> float:
    taken = []
    for number in range(_TIMED_ROWS):
        at = number % len(numeric_BN)
        row = (numeric_BN[at : at + 1], categorical_BC[at : at + 1])
        began = time.perf_counter()
        run(row)
        taken.append(time.perf_counter() - began)
    return 1000 * statistics.median(taken)
