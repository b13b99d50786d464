"""A plain Feast project takes our offline store by one line of YAML, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.local import plain_feast

pytestmark = [pytest.mark.proof, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, child_environment: dict[str, str]) -> Any:
    """What the project saw."""
    folder = tmp_path_factory.mktemp("plain") / "a feast project"
    program = Path(plain_feast.__file__)
    done = subprocess.run(
        [sys.executable, str(program), str(folder)],
        env={**child_environment, "TZ": "Asia/Kathmandu", "RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("engine", ["process", "ray"])
def test_ten_cases_are_answered_as_a_user_expects(told: Any, engine: str) -> None:
    """Age beyond the time to live, equal to it, ties, futures, strangers, repeats, null keys."""
    assert told[engine]["cases"] == [
        ["times kept", True, None],
        ["duplicate", 80.0, 8.5],
        ["older than ttl", None, 1.5],
        ["as old as ttl", 15.0, None],
        ["same time", 20.0, None],
        ["created tie", 31.0, None],
        ["later in the second", 40.0, None],
        ["only future", None, None],
        ["unknown", None, None],
        ["duplicate", 80.0, 8.5],
        ["null key", None, None],
    ]


@pytest.mark.parametrize("engine", ["process", "ray"])
def test_random_rows_over_three_views_are_equal_to_brute_force(told: Any, engine: str) -> None:
    """Several time zones, two changes of clocks, ties, two keys, text, files in a folder."""
    found = told[engine]["random"]

    assert found["rows"] == plain_feast.ROWS
    assert found["wrong"] == 0
    assert found["in_order"]
    assert found["blocks_equal"]
    assert all(0 < share < 1 for share in found["null_shares"].values()), "nothing was compared"


def test_created_times_break_ties_only_if_the_project_says_so(told: Any) -> None:
    """Feast's own rule lets a value of tomorrow in, until a call asks not to."""
    assert told["process"]["without_created"] == [32.0, 31.0]


def test_on_demand_features_and_retrieval_without_rows_work(told: Any) -> None:
    """Feast's own parts around the store find what they need."""
    assert told["on_demand"] == [[1.0, 1.5, 3.0], [8.0, 8.5, 25.5]]
    assert told["without_rows"] == [[3.0, 20.0], [4.0, 31.0], [5.0, 40.0], [8.0, 80.0]]


def test_feast_materializes_from_the_store(told: Any) -> None:
    """The newest event of each entity up to the end of the interval, ties by creation."""
    assert told["materialized"] == [
        [10.0, 20.0, 32.0, 40.0, None, 80.0],
        [1.5, None, None, None, None, 8.5],
    ]


def test_wrong_entity_rows_are_refused_with_the_reason(told: Any) -> None:
    """Nothing is guessed."""
    assert told["refused"] == {
        "text for a number": "entity rows.id = 'String': must be of the kind that the view's files"
        " have: Int64",
        "no time": "entity rows.event_timestamp = None: must never be null; 1 rows have none",
        "no key": "entity rows = 'id': must be a column; did you mean 'ids'?",
        "sql": "entity_df = 'str': must be a pandas.DataFrame or None; file sources have no SQL",
    }
