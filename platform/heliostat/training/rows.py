"""Rows for training: checked, split, encoded to codes and float32, written for the workers.

Shapes: B rows, N numeric inputs, C categorical inputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from heliostat.config import require
from heliostat.errors import ConfigError
from heliostat.inference.columns import column, encode, texts
from heliostat.registry.package import ModelInput
from heliostat.training.recipe import TrainRecipe, Validation

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

_Number = TypeVar("_Number", np.float32, np.int64)

_TRAIN, _VALIDATION = "train.parquet", "validation.parquet"
_STREAM, _ROWS_PER_STREAM_FILE = "stream", 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistics:
    """What the network needs to know of the training rows besides its weights."""

    mean: tuple[float, ...]
    """Mean of each numeric input over the rows where it is present."""

    deviation: tuple[float, ...]
    """Standard deviation, likewise; 1 for constant inputs."""

    has_missing: tuple[bool, ...]
    """Whether training saw the numeric input missing at all."""

    output_offset: float
    """Logit of the base rate, or the label's mean: what an untrained network answers."""

    output_scale: float
    """1, or the label's standard deviation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PreparedRows:
    """Encoded rows in a folder that every worker can read."""

    folder: Path
    inputs: tuple[ModelInput, ...]
    statistics: Statistics
    num_train: int
    num_validation: int

    num_padding: int = 0
    """Rows that a stream repeats, so that it splits evenly and no row is left out."""

    @property
    def stream(self) -> Path:
        """Folder of the files that Ray Data streams."""
        return self.folder / _STREAM

    def input_names(self) -> tuple[list[str], list[str]]:
        """Columns of the numeric and of the categorical inputs."""
        return _columns(self.inputs)

    def read_train(self) -> Tensors:
        """Rows to learn from."""
        return _read(self.folder / _TRAIN, self.inputs)

    def read_validation(self) -> Tensors:
        """Rows held back."""
        return _read(self.folder / _VALIDATION, self.inputs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tensors:
    """Encoded rows in memory."""

    numeric_BN: NDArray[np.float32]  # noqa: N815 - shape letters
    categorical_BC: NDArray[np.int64]  # noqa: N815
    label_B: NDArray[np.float32]  # noqa: N815


def prepare(recipe: TrainRecipe, rows: pl.DataFrame | Path, folder: Path) -> PreparedRows:
    """Check and encode training rows and write them to `folder`.

    Vocabularies and statistics come from the rows to learn from only, never from those held
    back.

    Args:
        recipe: Names the columns and how rows are held back.
        rows: The rows, or a Parquet file or folder of such files.
        folder: Made if needed; files of an earlier call are replaced.

    Raises:
        ConfigError: A column is missing or of the wrong kind, the label is missing somewhere or
            not 0 and 1, or too few rows are left to learn from.
    """
    frame = _select(recipe, rows)
    label_B = _label(recipe, frame)
    held_B = _held_back(recipe.validation, frame, recipe.seed)
    learn = frame.filter(~held_B)
    require(
        learn.height >= recipe.num_workers, "training rows", learn.height,
        f"must be at least {recipe.num_workers}, one per worker",
    )  # fmt: skip
    inputs = _inputs(recipe, learn)
    learn_label_B = label_B[~held_B]
    if recipe.task == "binary" and learn_label_B.min() == learn_label_B.max():
        raise ConfigError(
            f"label {recipe.label}",
            float(learn_label_B.min()),
            "must be 0 in some rows and 1 in others",
        )
    numeric_BN, categorical_BC = encode(learn, inputs)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / _TRAIN, inputs, numeric_BN, categorical_BC, learn_label_B)
    statistics = _statistics(recipe, numeric_BN, learn_label_B)
    num_padding = 0
    if recipe.feed == "stream":
        num_padding = -learn.height % recipe.num_workers
        _write_stream(folder, num_padding, recipe.seed)
    held = frame.filter(held_B)
    _write(folder / _VALIDATION, inputs, *encode(held, inputs), label_B[held_B])
    return PreparedRows(
        folder=folder,
        inputs=inputs,
        statistics=statistics,
        num_train=learn.height,
        num_validation=held.height,
        num_padding=num_padding,
    )


def _select(recipe: TrainRecipe, rows: pl.DataFrame | Path) -> pl.DataFrame:
    import polars as pl

    names = [*recipe.numeric, *recipe.categorical, recipe.label]
    if recipe.validation.time_column is not None and recipe.validation.time_column not in names:
        names.append(recipe.validation.time_column)
    if isinstance(rows, Path):
        known = pl.scan_parquet(rows).collect_schema().names()
        rows = pl.read_parquet(rows, columns=[name for name in names if name in known])
    for name in names:
        column(rows, name)
    return rows.select(names)


def _label(recipe: TrainRecipe, frame: pl.DataFrame) -> NDArray[np.float32]:
    import polars as pl

    values = frame[recipe.label]
    if not (values.dtype.is_numeric() or values.dtype in {pl.Boolean, pl.Null}):
        raise ConfigError(f"label {recipe.label}", str(values.dtype), "must be a number column")
    label_B = values.cast(pl.Float32).to_numpy(allow_copy=True)
    unknown = int(np.count_nonzero(~np.isfinite(label_B)))
    require(
        unknown == 0, f"label {recipe.label}", f"missing in {unknown} rows",
        "must be known for every training row",
    )  # fmt: skip
    if recipe.task == "binary":
        other = label_B[(label_B != 0) & (label_B != 1)]
        require(
            other.size == 0, f"label {recipe.label}", float(other[0]) if other.size else None,
            "must be 0 or 1",
        )  # fmt: skip
    return label_B


def _held_back(validation: Validation, frame: pl.DataFrame, seed: int) -> NDArray[np.bool_]:
    import polars as pl

    count = int(frame.height * validation.share)
    held_B = np.zeros(frame.height, np.bool_)
    if count == 0:
        return held_B
    if validation.time_column is None:
        held_B[np.random.default_rng(seed).permutation(frame.height)[:count]] = True
        return held_B
    times = frame[validation.time_column]
    if times.null_count():
        raise ConfigError(
            f"column {validation.time_column}", f"missing in {times.null_count()} rows",
            "must be known, to hold back the latest rows",
        )  # fmt: skip
    cut = times.sort()[frame.height - count]
    return pl.select(times >= cut).to_series().to_numpy()


def _inputs(recipe: TrainRecipe, learn: pl.DataFrame) -> tuple[ModelInput, ...]:
    numeric = [ModelInput(name=name, kind="numeric") for name in recipe.numeric]
    categorical = []
    for name in recipe.categorical:
        counts = texts(learn, name).drop_nulls().value_counts(name="rows")
        often = counts.filter(counts["rows"] >= recipe.category_min_rows)
        categorical.append(
            ModelInput(name=name, kind="categorical", vocabulary=tuple(sorted(often[name])))
        )
    return (*numeric, *categorical)


def _statistics(
    recipe: TrainRecipe, numeric_BN: NDArray[np.float32], label_B: NDArray[np.float32]
) -> Statistics:
    finite_BN = np.isfinite(numeric_BN)
    counts_N = np.maximum(finite_BN.sum(axis=0), 1)
    values_BN = np.where(finite_BN, numeric_BN, 0).astype(np.float64)
    mean_N = values_BN.sum(axis=0) / counts_N
    spread_BN = np.where(finite_BN, values_BN - mean_N, 0)
    deviation_N = np.sqrt((spread_BN**2).sum(axis=0) / counts_N)
    deviation_N[deviation_N < 1e-6 * np.maximum(np.abs(mean_N), 1e-6)] = 1.0
    rate = float(label_B.mean(dtype=np.float64))
    binary = recipe.task == "binary"
    return Statistics(
        mean=tuple(mean_N.tolist()),
        deviation=tuple(deviation_N.tolist()),
        has_missing=tuple((np.isnan(numeric_BN).sum(axis=0) > 0).tolist()),
        output_offset=math.log(rate / (1 - rate)) if binary else rate,
        output_scale=1.0 if binary else float(label_B.std(dtype=np.float64)) or 1.0,
    )


def _write(
    path: Path,
    inputs: Sequence[ModelInput],
    numeric_BN: NDArray[np.float32],
    categorical_BC: NDArray[np.int64],
    label_B: NDArray[np.float32],
) -> None:
    import polars as pl

    numeric = [item.name for item in inputs if item.kind == "numeric"]
    categorical = [item.name for item in inputs if item.kind == "categorical"]
    columns = {f"input.{name}": numeric_BN[:, index] for index, name in enumerate(numeric)}
    codes_by_name = {
        f"input.{name}": categorical_BC[:, index].astype(np.int32)
        for index, name in enumerate(categorical)
    }
    scratch = path.with_suffix(".part")
    pl.DataFrame({**columns, **codes_by_name, "label": label_B}).write_parquet(
        scratch, compression="lz4"
    )
    scratch.replace(path)


def _write_stream(folder: Path, num_padding: int, seed: int) -> None:
    """Cut the rows to learn from, shuffled once, into files of a size that Ray Data reads well."""
    import polars as pl

    frame = pl.read_parquet(folder / _TRAIN)
    frame = pl.concat([frame, frame.head(num_padding)]).sample(
        fraction=1.0, shuffle=True, seed=seed
    )
    target = folder / _STREAM
    target.mkdir(exist_ok=True)
    for path in target.iterdir():
        path.unlink()
    for number, part in enumerate(frame.iter_slices(_ROWS_PER_STREAM_FILE)):
        part.write_parquet(target / f"{number:05d}.parquet", compression="lz4")


def _columns(inputs: Sequence[ModelInput]) -> tuple[list[str], list[str]]:
    return (
        [f"input.{item.name}" for item in inputs if item.kind == "numeric"],
        [f"input.{item.name}" for item in inputs if item.kind == "categorical"],
    )


def _read(path: Path, inputs: Sequence[ModelInput]) -> Tensors:
    import polars as pl

    frame = pl.read_parquet(path)
    numeric, categorical = _columns(inputs)
    return Tensors(
        numeric_BN=_matrix(frame, numeric, np.float32),
        categorical_BC=_matrix(frame, categorical, np.int64),
        label_B=frame["label"].to_numpy(allow_copy=True),
    )


def _matrix(frame: pl.DataFrame, names: Sequence[str], kind: type[_Number]) -> NDArray[_Number]:
    matrix: NDArray[_Number] = np.empty((frame.height, len(names)), kind)
    for index, name in enumerate(names):
        matrix[:, index] = frame[name].to_numpy()
    return matrix
