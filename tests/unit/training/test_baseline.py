from __future__ import annotations

import hashlib
import json
from pathlib import Path

import polars as pl
import pytest

from heliostat.errors import ConfigError
from heliostat.training import baseline

ROWS = pl.DataFrame(
    {
        "late": [0, 1, 1, 0],
        "wind": [1.5, None, float("nan"), 30.0],
        "place": ["a", None, "b", "b"],
        "code": [7, 7, None, 8],
        "not read": [1, 2, 3, 4],
    }
)


def test_each_input_and_the_label_are_counted_and_read_again(tmp_path: Path) -> None:
    """NaN and null are missing alike; whole numbers that are looked up count by their text."""
    made = baseline.of(
        ROWS, numeric=("wind", "late"), categorical=("place", "code"), tables={"examples": 3}
    )
    made.write(tmp_path)
    read = baseline.Baseline.read(tmp_path)

    assert read is not None
    assert {name: (item.rows, item.missing) for name, item in read.columns.items()} == {
        "wind": (4, 2), "late": (4, 0), "place": (4, 1), "code": (4, 1),
    }  # fmt: skip
    assert read.columns["place"].counts == {"a": 1, "b": 2}
    assert read.columns["code"].counts == {"7": 2, "8": 1}
    assert (read.rows, read.tables) == (4, {"examples": 3})
    cited = baseline.cited(tmp_path)
    content = (tmp_path / "baseline.json").read_bytes()
    assert cited == {"file": "baseline.json", "sha256": hashlib.sha256(content).hexdigest()}


def test_older_packages_have_none_and_other_formats_are_refused(tmp_path: Path) -> None:
    """Nobody compares live traffic with something else."""
    assert baseline.Baseline.read(tmp_path) is None
    assert baseline.cited(tmp_path) is None
    (tmp_path / "baseline.json").write_text(json.dumps({"format": 2}))

    with pytest.raises(ConfigError, match="must be 1"):
        baseline.Baseline.read(tmp_path)


def test_text_among_numbers_is_refused() -> None:
    """It would be no histogram of what the model reads."""
    with pytest.raises(ConfigError, match="baseline place = 'String': must be a number column"):
        baseline.of(ROWS, numeric=("place",), categorical=(), tables={})
