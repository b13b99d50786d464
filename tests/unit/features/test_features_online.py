from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from heliostat.errors import ConfigError, HeliostatError, Unavailable
from heliostat.features import wire
from heliostat.features.definitions import Feature, FeatureService, FeatureView
from heliostat.features.online import OnlineReader, OnlineWriter

T0 = datetime(2026, 1, 1, 12, 0, 0, 250_000, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def compute(tables: Any) -> pl.DataFrame:
    """Stand in for a view's function; these tests write its result directly."""
    return tables["t"]


USER = FeatureView(
    name="user",
    keys=("user_id",),
    features=(
        Feature(name="score", dtype="float64"),
        Feature(name="visits", dtype="int64"),
        Feature(name="city", dtype="string"),
    ),
    inputs=("t",),
    compute=compute,
    ttl_s=60.0,
)
PAIR = FeatureView(
    name="pair",
    keys=("user_id", "item"),
    integer_keys=("item",),
    features=(Feature(name="seen", dtype="int64"),),
    inputs=("t",),
    compute=compute,
    ttl_s=None,
)
SERVICE = FeatureService(project="shop", name="s", views=(USER, PAIR))


def _users(*rows: tuple[Any, ...]) -> pl.DataFrame:
    schema = {
        "user_id": pl.String,
        "event_timestamp": pl.Datetime("us", "UTC"),
        "score": pl.Float64,
        "visits": pl.Int64,
        "city": pl.String,
    }
    return pl.DataFrame(list(rows), schema=schema, orient="row")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with three users and one pair, in a folder that does not exist yet."""
    path = tmp_path / "of features" / "online.db"
    writer = OnlineWriter(path, "shop")
    writer.write(
        USER,
        _users(
            ("a", T0 - SECOND, 0.5, -3, "old"),
            ("a", T0, 1.5, 2**40, "Köln"),
            ("b", T0, None, None, None),
            (None, T0, 1.0, 1, "lost"),
            ("", T0, float("inf"), 0, ""),
        ),
    )
    writer.write(
        PAIR, pl.DataFrame({"user_id": ["a"], "item": [-7], "event_timestamp": [T0], "seen": [5]})
    )
    return path


def _reader(store: Path) -> OnlineReader:
    return OnlineReader(store, "shop", SERVICE.describe()["views"])


def test_what_was_written_newest_is_read(store: Path) -> None:
    """Of each entity, in the order asked; nulls, unknown and null keys are None."""
    answer = _reader(store).read(
        {"user_id": ["b", "a", "nobody", None, ""], "item": [1, -7, 1, 1, None]}, T0
    )

    assert answer == {
        "score": [None, 1.5, None, None, float("inf")],
        "visits": [None, 2**40, None, None, 0],
        "city": [None, "Köln", None, None, ""],
        "seen": [None, 5, None, None, None],
    }


@pytest.mark.parametrize(
    ("at", "visits"),
    [
        (T0 - timedelta(microseconds=1), None),
        (T0, 2**40),
        (T0 + 60 * SECOND, 2**40),
        (T0 + 60 * SECOND + timedelta(microseconds=1), None),
    ],
)
def test_values_live_from_their_event_to_their_time_to_live(
    store: Path, at: datetime, visits: int | None
) -> None:
    """To the microsecond, as in a training set; a view without a limit keeps its values."""
    answer = _reader(store).read({"user_id": ["a"], "item": [-7]}, at)

    assert answer["visits"] == [visits]
    assert answer["seen"] == [None if at < T0 else 5]


def test_without_a_moment_the_clock_decides(store: Path) -> None:
    """What is older than its time to live by now is missing."""
    OnlineWriter(store, "shop").write(USER, _users(("c", datetime.now(UTC), 1.0, 1, "x")))

    answer = _reader(store).read({"user_id": ["a", "c"], "item": [-7, -7]}, None)

    assert answer["visits"] == [None, 1]
    assert answer["seen"] == [5, None]


def test_an_older_event_never_replaces_a_newer_one(store: Path) -> None:
    """A correction of the same event does."""
    writer = OnlineWriter(store, "shop")
    writer.write(USER, _users(("a", T0 - timedelta(microseconds=1), 0.0, 0, "late")))
    assert _reader(store).read({"user_id": ["a"], "item": [1]}, T0)["city"] == ["Köln"]

    writer.write(USER, _users(("a", T0, 0.0, 0, "corrected")))
    assert _reader(store).read({"user_id": ["a"], "item": [1]}, T0)["city"] == ["corrected"]


def test_whole_seconds_of_another_writer_count(store: Path) -> None:
    """Feast overwrites a row without our finer time, which then no longer belongs to it."""
    later = int(T0.timestamp()) + 5
    with closing(sqlite3.connect(store)) as connection, connection:
        connection.execute(
            "UPDATE shop_user SET event_ts = ?, value = ? WHERE feature_name = 'visits'",
            (later, wire.encode_int64(9)),
        )
    reader = _reader(store)
    at = datetime.fromtimestamp(later, UTC)

    assert reader.read({"user_id": ["a"], "item": [1]}, at)["visits"] == [9]
    assert reader.read({"user_id": ["a"], "item": [1]}, at - SECOND)["visits"] == [None]


def test_cleared_views_are_empty(store: Path) -> None:
    """So that a replay can begin earlier than what was written last."""
    OnlineWriter(store, "shop").clear([USER])

    assert _reader(store).read({"user_id": ["a"], "item": [-7]}, T0)["score"] == [None]
    assert OnlineWriter(store, "shop").write(USER, _users(("a", T0 - SECOND, 2.0, 1, "x"))) == 1
    assert _reader(store).read({"user_id": ["a"], "item": [-7]}, T0)["score"] == [2.0]


def test_reading_while_writing_sees_whole_rows(store: Path) -> None:
    """Readers never wait for the writer, and never see half of a write."""
    reader = _reader(store)
    stop = threading.Event()
    wrong: list[Any] = []
    seen = set()

    def read() -> None:
        while not stop.is_set():
            answer = reader.read({"user_id": ["a", "b"], "item": [1, 1]}, T0 + 3_600 * SECOND)
            numbers = {answer["score"][0], answer["visits"][0], answer["score"][1]} - {None}
            seen.update(numbers)
            if len(numbers) > 1:
                wrong.append(answer)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for step in range(60):
        event = T0 + 3_600 * SECOND - (60 - step) * timedelta(milliseconds=1)
        rows = [(user, event, float(step), step, "x") for user in ("a", "b")]
        OnlineWriter(store, "shop").write(USER, _users(*rows))
    stop.set()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert len(seen) > 1


def test_bad_keys_and_a_missing_store_are_clear_errors(store: Path, tmp_path: Path) -> None:
    """What the caller must change, or what must be done first."""
    for keys, message in (
        ({"user_id": ["a"]}, "entity keys = 'item': must be given"),
        (
            {"user_id": ["a", "b"], "item": [1]},
            "entity key item = 1: must have 2 values, as the other keys",
        ),
        (
            {"user_id": ["a"], "item": [float("nan")]},
            "entity key = nan: must be text or a whole number of 64 bits",
        ),
        (
            {"user_id": ["a"], "item": [2**64]},
            f"entity key = {2**64}: must be text or a whole number of 64 bits",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            _reader(store).read(keys, T0)  # type: ignore[arg-type]
        assert str(caught.value) == message

    with pytest.raises(Unavailable) as absent:
        _reader(tmp_path / "absent.db").read({"user_id": ["a"], "item": [1]}, T0)
    assert str(absent.value) == (
        f"online store {tmp_path / 'absent.db'}: unable to open database file. "
        "Materialize the service's views, then try again"
    )


def test_unpaired_surrogates_match_nothing(store: Path) -> None:
    """JSON can carry them; they are no reason for a failed request."""
    answer = _reader(store).read({"user_id": ["\ud800"], "item": [1]}, T0)

    assert answer["city"] == [None]


@pytest.mark.parametrize("number", [0, 1, -1, 127, 128, 300, -(2**63), 2**63 - 1])
def test_integers_survive_the_wire(number: int) -> None:
    """Also negative ones, which take ten bytes."""
    assert wire.decode(wire.encode_int64(number)) == number


def test_a_value_of_an_unknown_type_is_said_so() -> None:
    """A list that Feast wrote is not taken for something else."""
    with pytest.raises(HeliostatError, match="is of a type that cannot be read here"):
        wire.decode(b"\x62\x02\x0a\x00")


def test_the_reader_loads_neither_feast_nor_pandas(
    store: Path, child_environment: dict[str, str]
) -> None:
    """A gateway that only reads features stays small."""
    program = (
        "import sys; from pathlib import Path; from heliostat.features.online import OnlineReader\n"
        f"reader = OnlineReader(Path({str(store)!r}), 'shop', [dict(name='user', "
        "keys=('user_id',), features=('score',), ttl_s=None)])\n"
        "assert reader.read({'user_id': ['a']}, None)['score'] == [1.5]\n"
        "print(sorted({'feast', 'pandas', 'polars', 'ray', 'torch', 'mlflow'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=child_environment,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "[]\n"


def test_two_definitions_of_a_view_are_served_side_by_side(tmp_path: Path) -> None:
    """A running reader keeps the values it was made for; the newest definition has Feast's table."""
    old = SERVICE.views[0]
    new = replace(old, ttl_s=(old.ttl_s or 0) + 1)
    older, newer, newest = (
        OnlineReader(tmp_path / "online.db", "shop", [{**view, **more}])
        for view, more in (
            (replace(SERVICE, views=(old,)).describe()["views"][0], {}),
            (replace(SERVICE, views=(new,)).describe()["views"][0], {}),
            (replace(SERVICE, views=(new,)).describe()["views"][0], {"version": ""}),
        )
    )
    writer = OnlineWriter(tmp_path / "online.db", "shop")
    first = _users(("a", T0, 1.0, 1, "old"))
    writer.write(old, first)
    keys = {key: first[key].to_list() for key in old.keys}
    name = next(item.name for item in old.features if item.dtype == "string")
    assert older.read(keys, T0)[name] == ["old"]
    with pytest.raises(Unavailable, match="another definition is there"):
        newer.read(keys, T0)

    other = OnlineWriter(tmp_path / "online.db", "shop")
    other.write(new, first.with_columns(pl.lit("new").alias(name)))

    found = [reader.read(keys, T0)[name] for reader in (older, newer, newest)]
    assert found == [["old"], ["new"], ["new"]]
    # Writers that began before go on with their own, and a definition may come back.
    writer.write(old, first.with_columns(pl.lit("late").alias(name)))
    found = [reader.read(keys, T0)[name] for reader in (older, newer, newest)]
    assert found == [["late"], ["new"], ["new"]]
    writer.clear([old])
    found = [reader.read(keys, T0)[name] for reader in (older, newer, newest)]
    assert found == [[None], ["new"], [None]]
