"""A verified model package, loaded and ready to answer rows given by input name.

Shapes: B rows, N numeric inputs, C categorical inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from heliostat.config import require
from heliostat.errors import ConfigError, nearest
from heliostat.registry.package import MISSING_CODE, UNKNOWN_CODE, PackageDescription

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SESSION_BYTES = 1 << 20
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_NO_GPU = (
    "must be one that ONNX Runtime or torch can use here; torch sees no GPU, and ONNX Runtime has "
)
_FIRST_KNOWN_CODE = UNKNOWN_CODE + 1
_NO_CATEGORIES = np.empty((1, 0), np.int64)
_NO_CATEGORIES.setflags(write=False)


class Network(Protocol):
    """An opened network: ONNX Runtime's session, what torch runs in its place, or a pickle's."""

    def get_inputs(self) -> Sequence[Any]:
        """Each with ``name`` and ``shape``."""

    def get_outputs(self) -> Sequence[Any]:
        """Likewise."""

    def run(self, outputs: Sequence[str], feed: Mapping[str, NDArray[Any]], /) -> Sequence[Any]:
        """Compute the named outputs."""


class Predictor:
    """One model version in memory. Safe to call from several threads."""

    def __init__(self, description: PackageDescription, session: Network, digest: str) -> None:
        """Take what `load` has verified; call `load` instead."""
        self.description = description
        self.digest = digest
        """Content digest of the package, or an empty text where it was not verified."""
        self.size_bytes = 0
        """Estimated memory: the network's file once more, and what a session takes empty."""
        self._session = session
        self._output = [session.get_outputs()[0].name]
        self._numeric = tuple(item.name for item in description.numeric)
        self._categorical = tuple(
            (item.name, codes(item.vocabulary)) for item in description.categorical
        )
        self._expected = frozenset(item.name for item in description.inputs)

    @staticmethod
    def load(
        package_dir: Path,
        keys_dir: Path | None,
        *,
        digest: str | None = None,
        device: Literal["cpu", "cuda"] | None = None,
    ) -> Predictor:
        """Verify the package's signature, then open it and answer one empty row.

        Args:
            package_dir: The package; nothing in it is parsed before it is verified.
            keys_dir: Folder of trusted keys. None skips the verification; that is only
                for a package which this very process has just written.
            digest: Content digest that the package must have, if known.
            device: Where the network runs; None takes the package's word.

        Raises:
            UntrustedModel: A file was changed, added or removed, or the key is unknown.
            ConfigError: The content is not the one expected, or the description and the
                network do not fit together.
        """
        found = "" if keys_dir is None else _verify(package_dir, keys_dir, digest)
        description = PackageDescription.read(package_dir)
        path = package_dir / description.file
        session = _open(path, description, device or description.serving.device)
        predictor = Predictor(description, session, found)
        _check_network(session, description, path)
        predictor.size_bytes = path.stat().st_size + _SESSION_BYTES
        predictor.predict(dict.fromkeys(predictor._expected, (None,)))
        return predictor

    def predict(self, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> NDArray[np.float32]:
        """Score rows.

        Args:
            columns: Input name to B values. In numeric inputs None and NaN are missing; in
                categorical ones None and NaN are missing, a value outside the vocabulary is
                unknown, and a number is looked up by its text.

        Returns:
            Scores, shape (B,); of a network with several outputs, the last column.

        Raises:
            ConfigError: An input is missing or unknown, or the lengths differ, or a numeric
                value is no number.
        """
        return self.run(*self.encode(columns))

    def encode(
        self, columns: Mapping[str, Sequence[Any] | NDArray[Any]]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Turn columns into the network's tensors, shapes (B, N) and (B, C).

        Raises:
            ConfigError: As for `predict`.
        """
        if columns.keys() != self._expected:
            self._refuse_names(columns)
        num_rows = len(next(iter(columns.values())))
        try:
            if num_rows == 1:
                return self._encode_row(columns)
            return self._encode_rows(columns, num_rows)
        except (TypeError, ValueError, OverflowError, IndexError) as error:
            raise self._misfit(columns, num_rows) from error

    def run(
        self, numeric_BN: NDArray[np.float32], categorical_BC: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Score tensors that `encode` has made; returns shape (B,)."""
        feed: dict[str, Any] = {}
        if self._numeric:
            feed["numeric"] = numeric_BN
        if self._categorical:
            feed["categorical"] = categorical_BC
        scores: NDArray[np.float32] = self._session.run(self._output, feed)[0]
        return scores if scores.ndim == 1 else scores[:, -1]

    def _encode_row(
        self, columns: Mapping[str, Any]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        for values in columns.values():
            if len(values) != 1:
                raise ValueError
        numeric_1N = np.array([[columns[name][0] for name in self._numeric]], np.float32)
        if numeric_1N.ndim != 2:
            raise ValueError
        if not self._categorical:
            return numeric_1N, _NO_CATEGORIES
        row = []
        for name, table in self._categorical:
            value = columns[name][0]
            code = table.get(value)
            row.append(_slow_code(value, table) if code is None else code)
        return numeric_1N, np.array([row], np.int64)

    def _encode_rows(
        self, columns: Mapping[str, Any], num_rows: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        numeric_BN = np.empty((num_rows, len(self._numeric)), np.float32)
        for index, name in enumerate(self._numeric):
            if len(columns[name]) != num_rows:
                raise ValueError
            numeric_BN[:, index] = np.asarray(columns[name], np.float32)
        categorical_BC = np.empty((num_rows, len(self._categorical)), np.int64)
        for index, (name, table) in enumerate(self._categorical):
            values = columns[name]
            if len(values) != num_rows:
                raise ValueError
            found = [table.get(value) for value in values]
            categorical_BC[:, index] = [
                _slow_code(value, table) if code is None else code
                for value, code in zip(values, found, strict=True)
            ]
        return numeric_BN, categorical_BC

    def _refuse_names(self, columns: Mapping[str, Any]) -> None:
        where = f"inputs of {self.description.model}"
        for name in columns:
            if name not in self._expected:
                raise ConfigError(
                    where, name, "is not an input", breaks=nearest(name, self._expected)
                )
        missing = sorted(self._expected - columns.keys())
        raise ConfigError(where, missing, "must be given")

    def _misfit(self, columns: Mapping[str, Any], num_rows: int) -> ConfigError:
        for name, values in columns.items():
            if len(values) != num_rows:
                return ConfigError(f"input {name}", len(values), f"must have {num_rows} values")
        for name in self._numeric:
            for value in columns[name]:
                try:
                    float("nan" if value is None else value)
                except (TypeError, ValueError, OverflowError):
                    return ConfigError(f"input {name}", value, "must be a number or missing")
        return ConfigError("inputs", sorted(columns), "must be columns of plain values")


def read_verified(package_dir: Path, keys_dir: Path, digest: str | None) -> PackageDescription:
    """Verify the package and read its description, without opening the network.

    Raises:
        UntrustedModel: As for `Predictor.load`.
        ConfigError: The content is not the one expected.
    """
    _verify(package_dir, keys_dir, digest)
    return PackageDescription.read(package_dir)


def codes(vocabulary: Sequence[str]) -> dict[str | None, int]:
    """Map each known category, and None, to its code in the ``categorical`` tensor.

    >>> codes(("red", "blue"))
    {None: 0, 'red': 2, 'blue': 3}
    """
    table: dict[str | None, int] = {None: MISSING_CODE}
    table.update((word, code) for code, word in enumerate(vocabulary, start=_FIRST_KNOWN_CODE))
    return table


def _verify(package_dir: Path, keys_dir: Path, digest: str | None) -> str:
    from heliostat.registry import signing

    found = signing.verify(package_dir, keys_dir)
    require(digest is None or digest == found, f"{package_dir}: digest", found, f"must be {digest}")
    return found


def _slow_code(value: Any, table: Mapping[str | None, int]) -> int:
    """Code of a value that the table does not hold as it is."""
    if isinstance(value, str):
        return table.get(str(value), UNKNOWN_CODE)
    if isinstance(value, float | np.floating):
        if np.isnan(value):
            return MISSING_CODE
        if float(value).is_integer():
            value = int(value)
    return table.get(str(value), UNKNOWN_CODE)


def _open(path: Path, description: PackageDescription, device: Literal["cpu", "cuda"]) -> Network:
    if description.network == "pickle":
        from heliostat.inference.pickled import PickledNetwork

        return PickledNetwork(
            path,
            num_numeric=len(description.numeric),
            num_categorical=len(description.categorical),
        )
    import onnxruntime

    known = onnxruntime.get_available_providers()
    if _PROVIDERS[device] in known:
        return _open_session(path, _PROVIDERS[device])
    import torch

    # Falling back to the CPU would be slow without a word.
    require(
        torch.cuda.is_available(), f"model {description.model}: serving.device", device,
        _NO_GPU + ", ".join(known),
    )  # fmt: skip
    from heliostat.inference.torch_network import TorchNetwork

    return TorchNetwork(path, torch.device(device))


def _open_session(path: Path, provider: str) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # One thread: small networks lose time to hand-over, and requests are the parallelism.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        session: Network = onnxruntime.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:
        # onnxruntime's own exceptions share no base class but Exception.
        raise ConfigError(str(path), str(error), "must be a readable ONNX network") from error
    return session


def _check_network(session: Network, description: PackageDescription, path: Path) -> None:
    expected = {
        name: len(items)
        for name, items in (
            ("numeric", description.numeric),
            ("categorical", description.categorical),
        )
        if items
    }
    found = {
        item.name: item.shape[1] if len(item.shape) == 2 else None for item in session.get_inputs()
    }
    same = found.keys() == expected.keys() and all(
        not isinstance(found[name], int) or found[name] == width for name, width in expected.items()
    )
    require(same, f"{path}: inputs", found, f"must be {expected}")
