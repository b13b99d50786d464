"""Rows are split, encoded and described without looking at those held back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from heliostat.errors import ConfigError
from heliostat.inference.columns import encode
from heliostat.inference.predictor import Predictor
from heliostat.registry.package import ModelInput, PackageDescription
from heliostat.training.recipe import TrainRecipe, Validation
from heliostat.training.rows import prepare

RECIPE = TrainRecipe(
    label="y",
    numeric=("size",),
    categorical=("color",),
    num_workers=1,
    category_min_rows=2,
    validation=Validation(share=0.25, time_column="at"),
)

FRAME = pl.DataFrame(
    {
        "at": [3, 1, 2, 4, 6, 5, 8, 7],
        "size": [1.0, 3.0, None, float("nan"), 5.0, 3.0, 100.0, 100.0],
        "color": ["red", "red", "blue", "blue", None, "rare", "late", "late"],
        "y": [0, 1, 0, 1, 0, 1, 1, 1],
    }
)


def test_vocabulary_and_statistics_come_from_the_earlier_rows_only(tmp_path: Path) -> None:
    """The latest rows are held back; rare categories are left out of the vocabulary."""
    rows = prepare(RECIPE, FRAME, tmp_path)

    assert rows.inputs == (
        ModelInput(name="size", kind="numeric"),
        ModelInput(name="color", kind="categorical", vocabulary=("blue", "red")),
    )
    assert (rows.num_train, rows.num_validation) == (6, 2)
    learn, held = rows.read_train(), rows.read_validation()
    assert learn.categorical_BC.tolist() == [[3], [3], [2], [2], [0], [1]]
    assert learn.label_B.tolist() == [0, 1, 0, 1, 0, 1]
    assert held.numeric_BN.tolist() == [[100.0], [100.0]]
    assert held.categorical_BC.tolist() == [[1], [1]]
    assert np.isnan(learn.numeric_BN[:, 0]).tolist() == [False, False, True, True, False, False]
    statistics = rows.statistics
    assert (statistics.mean, statistics.has_missing) == ((3.0,), (True,))
    assert statistics.deviation == (pytest.approx(math.sqrt(2)),)
    assert (statistics.output_offset, statistics.output_scale) == (0.0, 1.0)


def test_parquet_files_give_the_same_rows_as_a_frame(tmp_path: Path) -> None:
    """A folder of files, as a table version has them."""
    (tmp_path / "in").mkdir()
    FRAME[:3].write_parquet(tmp_path / "in" / "a.parquet")
    FRAME[3:].write_parquet(tmp_path / "in" / "b.parquet")
    one = prepare(RECIPE, FRAME, tmp_path / "one")
    two = prepare(RECIPE, tmp_path / "in", tmp_path / "two")

    assert (one.inputs, one.statistics) == (two.inputs, two.statistics)
    assert one.read_train().label_B.tolist() == two.read_train().label_B.tolist()


COLUMNS: dict[str, pl.Series] = {
    "text": pl.Series(["a", "zzz", None, ""]),
    "integers": pl.Series([1, 2, None, 7]),
    "whole floats": pl.Series([1.0, 2.0, None, float("nan")]),
    "mixed floats": pl.Series([1.0, 2.5, None, float("nan")]),
    "booleans": pl.Series([True, False, None, True]),
    "nothing": pl.Series([None, None, None, None]),
}


@pytest.mark.parametrize("kind", COLUMNS, ids=str)
def test_columns_get_the_codes_that_the_predictor_gives(kind: str) -> None:
    """Training and serving must not disagree on what a value is."""
    inputs = (
        ModelInput(name="n", kind="numeric"),
        ModelInput(name="c", kind="categorical", vocabulary=("1", "2", "2.5", "False", "a")),
    )
    frame = pl.DataFrame({"n": [1.5, None, float("nan"), 3], "c": COLUMNS[kind]})
    description = PackageDescription(model="m", inputs=inputs, output="score", features=None)

    class Session:
        """Stands for the network, which encoding does not touch."""

        def get_outputs(self) -> list[Any]:
            return [type("Output", (), {"name": "score"})()]

    predictor = Predictor(description, Session(), "")  # type: ignore[arg-type]
    expected = predictor.encode({name: frame[name].to_list() for name in frame.columns})
    found = encode(frame, inputs)

    assert found[1].tolist() == expected[1].tolist()
    np.testing.assert_array_equal(found[0], expected[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": None}, "label y = 'missing in 8 rows': must be known for every training row"),
        ({"y": 2}, "label y = 2.0: must be 0 or 1"),
        ({"y": "yes"}, "label y = 'String': must be a number column"),
        ({"y": 1}, "label y = 1.0: must be 0 in some rows and 1 in others"),
        ({"size": "big"}, "input size = 'String': must be a number column"),
        ({"at": None}, "column at = 'missing in 8 rows': must be known, to hold back the latest"),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """Before any worker starts, naming column and value."""
    frame = FRAME.with_columns(**{name: pl.lit(value) for name, value in change.items()})

    with pytest.raises(ConfigError) as error:
        prepare(RECIPE, frame, tmp_path)
    assert str(error.value).startswith(message)


def test_an_absent_column_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    """A typing mistake is found at once."""
    with pytest.raises(ConfigError) as error:
        prepare(RECIPE, FRAME.rename({"size": "sizes"}), tmp_path)
    assert str(error.value) == "column = 'size': must be in the rows; did you mean 'sizes'?"
