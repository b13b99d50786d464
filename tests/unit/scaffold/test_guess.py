from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from heliostat.errors import ConfigError
from heliostat.scaffold import sizes
from heliostat.scaffold.guess import Guesses, guess
from heliostat.scaffold.reading import read
from tests.bench import csv_files

ROWS = 400


def _guess(folder: Path, columns: dict[str, object], **options: str) -> Guesses:
    path = folder / "rows.csv"
    pl.DataFrame(columns).write_csv(path)
    named = {"label": "y", "time": None, "entity": None, "positive": None}
    return guess(read(path), **{**named, **options})  # type: ignore[arg-type]


def _columns() -> dict[str, object]:
    rng = np.random.default_rng(0)
    return {"x": rng.normal(size=ROWS), "y": rng.integers(0, 2, ROWS)}


def test_every_column_of_a_file_with_text_dates_and_gaps_is_taken_for_what_it_is(
    tmp_path: Path,
) -> None:
    """Roles, types, what may be missing, how dates are written, and the column that leaks."""
    path = csv_files.write(csv_files.SUBSCRIPTIONS, tmp_path)
    found = guess(
        read(path), label="Cancelled", time="Asked On", entity="Customer No", positive=None
    )

    assert [(item.column.name, item.column.dtype, item.role) for item in found.columns] == [
        ("customer_no", "string", "entity"),
        ("asked_on", "timestamp", "time"),
        ("plan", "string", "categorical"),
        ("region", "string", "categorical"),
        ("member_since", "string", "date"),
        ("calls", "int64", "numeric"),
        ("hours_used", "float64", "numeric"),
        ("source", "string", "left out"),
        ("refund", "float64", "left out"),
        ("cancelled", "string", "label"),
    ]
    by_name = {item.column.name: item for item in found.columns}
    assert by_name["member_since"].form == "%d.%m.%Y"
    assert by_name["refund"].why == "looks like a leak: alone it ranks the label with AUC 1.000"
    assert [name for name, item in by_name.items() if item.column.nullable] == [
        "region", "calls", "hours_used", "refund",
    ]  # fmt: skip
    assert (found.label.task, found.label.positive) == ("binary", "Yes")


@pytest.mark.parametrize(
    ("labels", "task", "ones"),
    [
        ([0, 1], "binary", 200),
        ([1, 2], "binary", 200),
        (["no", "yes"], "binary", 200),
        (["true", "false"], "binary", 200),
        ([0, 1, 2, 3], "regression", None),
        ([0.5, 1.5, 7.25], "regression", None),
    ],
)
def test_a_label_of_two_values_is_a_class_and_other_numbers_are_numbers(
    labels: list[object], task: str, ones: int | None, tmp_path: Path
) -> None:
    """Whatever the two values are; the larger number, or the word that means yes, is the one."""
    columns = {**_columns(), "y": [labels[row % len(labels)] for row in range(ROWS)]}
    found = _guess(tmp_path, columns).label
    assert found.task == task
    if ones is not None:
        assert found.values_B.sum() == ones


def test_three_classes_need_to_be_told_which_one_is_meant(tmp_path: Path) -> None:
    """The message lists them, and the option settles it."""
    columns = {**_columns(), "y": [("a", "b", "c", "c")[row % 4] for row in range(ROWS)]}
    with pytest.raises(ConfigError) as caught:
        _guess(tmp_path, columns)
    assert "--label = 'y': must be a number or have two values; it has 'c' (200 rows)" in str(
        caught.value
    )
    assert _guess(tmp_path, columns, positive="c").label.values_B.sum() == 200


def test_what_names_rows_or_says_nothing_is_no_input(tmp_path: Path) -> None:
    """A running number, a text of its own in each row, one value everywhere; a real number stays."""
    columns = {
        "id": range(ROWS),
        "note": [f"text {number}" for number in range(ROWS)],
        "same": ["x"] * ROWS,
        **_columns(),
    }
    roles = {item.column.name: item.role for item in _guess(tmp_path, columns).columns}
    assert roles == {
        "id": "id", "note": "left out", "same": "left out", "x": "numeric", "y": "label"
    }  # fmt: skip


def test_missing_exactly_where_the_label_is_one_is_a_leak(tmp_path: Path) -> None:
    """As a column that somebody fills in afterwards; also a date that lies after the question."""
    given = _columns()
    labels = np.asarray(given["y"])
    days = [f"2024-01-{1 + row // 20:02d}" for row in range(ROWS)]
    columns = {
        **given,
        "closed": [None if one else 3.5 + row % 2 for row, one in enumerate(labels)],
        "day": days,
        "paid": [f"2024-02-{1 + row % 28:02d}" for row in range(ROWS)],
    }
    found = {item.column.name: item for item in _guess(tmp_path, columns, time="day").columns}
    assert found["closed"].why.startswith("looks like a leak: whether it is missing") or found[
        "closed"
    ].why.startswith("looks like a leak: alone")
    assert found["paid"].why == "looks like a leak: it lies after the prediction time in 400 rows"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"label": "z"}, "--label = 'z': must be a column of the file"),
        ({"time": "x"}, "--time = 'x': must be dates, moments, or seconds since 1970"),
        ({"entity": "y"}, "--label = 'y': must differ from time and entity"),
        ({"positive": "7"}, "--positive = '7': must be a value of y"),
    ],
)
def test_a_column_that_cannot_be_what_it_is_named_for_is_refused(
    options: dict[str, str], said: str, tmp_path: Path
) -> None:
    """In one line that names the option."""
    with pytest.raises(ConfigError) as caught:
        _guess(tmp_path, _columns(), **options)
    assert said in str(caught.value)


def test_an_entity_with_many_rows_at_one_time_is_refused(tmp_path: Path) -> None:
    """A request that names it could mean any of them."""
    columns = {**_columns(), "who": ["a"] * ROWS, "day": [f"2024-01-{1 + r // 20:02d}" for r in range(ROWS)]}  # fmt: skip
    with pytest.raises(ConfigError, match="380 of 400 rows have the entity and time of another"):
        _guess(tmp_path, columns, entity="who", time="day")


def test_periods_follow_one_another_and_the_replay_is_last(tmp_path: Path) -> None:
    """Also where the order of rows stands for time; few rows are replayed in rounds."""
    chosen = sizes.choose(_guess(tmp_path, _columns()))

    edges = [
        chosen.start, chosen.stable_until, chosen.stable_measured_until, chosen.candidate_until,
        chosen.replay_from, chosen.end,
    ]  # fmt: skip
    assert edges == sorted(set(edges))
    assert (chosen.rows_replayed, chosen.rounds, chosen.loss_decides) == (120, 20, False)


def test_rows_of_one_moment_cannot_be_split_by_time(tmp_path: Path) -> None:
    """The way out is named."""
    found = _guess(tmp_path, {**_columns(), "day": ["2024-01-01"] * ROWS}, time="day")
    with pytest.raises(ConfigError, match="Leave --time out"):
        sizes.choose(found)
