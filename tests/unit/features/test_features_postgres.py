"""PostgreSQL keeps what Redis keeps: the same values, rules and faults, on a real server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from heliostat.errors import ConfigError, Unavailable
from heliostat.features import stores
from heliostat.features.definitions import FeatureView
from heliostat.features.intervals import Interval
from heliostat.features.packed import PackedView
from heliostat.features.postgres_store import PostgresReader, PostgresWriter
from tests.unit.features import typed_view
from tests.unit.postgres import Server

T0 = datetime(2026, 1, 10, 12, tzinfo=UTC)
MICRO = timedelta(microseconds=1)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A PostgreSQL server for the tests of this file."""
    made = Server()
    yield made
    made.remove()


@pytest.fixture
def url(server: Server) -> str:
    """A database of the test's own."""
    return server.new_database().replace("+psycopg", "")


def _opened(url: str, view: FeatureView) -> tuple[PostgresWriter, PostgresReader]:
    return PostgresWriter(url, "p"), PostgresReader(url, [PackedView.of("p", view)])


def test_values_come_back_as_they_were_written(url: str) -> None:
    """Numbers, texts and nulls; strangers and null keys are missing; both ways to ask."""
    view = typed_view.view()
    writer, reader = _opened(url, view)
    rows = typed_view.frame(
        ("a", T0, -0.5, 2**53 + 1, "ü"), ("b", T0, None, None, None), ("", T0, 1.0, -1, "")
    )
    assert writer.write(view, rows) == 3
    keys: Any = {"id": ["a", "b", "", "c", None, "a"]}

    wanted = {
        "real": [-0.5, None, 1.0, None, None, -0.5],
        "whole": [2**53 + 1, None, -1, None, None, 2**53 + 1],
        "text": ["ü", None, "", None, None, "ü"],
    }
    assert reader.read(keys, T0) == wanted
    assert asyncio.run(reader.fetch(keys, T0)) == wanted


@pytest.mark.parametrize(("age", "seen"), [(-MICRO, False), (0 * MICRO, True), (60 * 10**6 * MICRO, True), (60 * 10**6 * MICRO + MICRO, False)])  # fmt: skip
def test_a_value_counts_from_its_event_to_its_time_to_live(
    url: str, age: timedelta, seen: bool
) -> None:
    """Both ends included, to the microsecond."""
    view = typed_view.view()
    writer, reader = _opened(url, view)
    writer.write(view, typed_view.frame(("a", T0, 0.5, 1, "")))

    assert reader.read({"id": ["a"]}, T0 + age)["real"] == [0.5 if seen else None]


def test_the_newest_event_stays_whatever_the_order(url: str) -> None:
    """Also before 1970, in Feast's table too, and an equal event is a correction."""
    import psycopg

    view = typed_view.view(ttl_s=None)
    writer, reader = _opened(url, view)
    moments = [datetime(1969, 6, 1, tzinfo=UTC) + timedelta(days=n % 400, microseconds=n % 7) for n in range(60)]  # fmt: skip
    random.Random(3).shuffle(moments)
    for number, moment in enumerate(moments):
        writer.write(view, typed_view.frame(("a", moment, float(number), number, str(number))))
    newest = max(moments)
    last = max(number for number, moment in enumerate(moments) if moment == newest)

    assert reader.read({"id": ["a"]}, None)["whole"] == [last]
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT feature_name, event_ts FROM p_v").fetchall()
    assert sorted(found) == [(name, newest) for name in ("real", "text", "whole")]


def test_two_versions_of_a_view_are_served_side_by_side(url: str) -> None:
    """A changed definition is another version; each reader sees its own, and one can be cleared."""
    old, new = typed_view.view(ttl_s=60.0), typed_view.view(ttl_s=61.0)
    (writer, old_reader), (_, new_reader) = _opened(url, old), _opened(url, new)
    writer.write(old, typed_view.frame(("a", T0, 1.0, 1, "old")))
    writer.write(new, typed_view.frame(("a", T0, 2.0, 2, "new")))

    assert old_reader.read({"id": ["a"]}, T0)["text"] == ["old"]
    assert new_reader.read({"id": ["a"]}, T0)["text"] == ["new"]
    writer.clear([old])
    assert old_reader.read({"id": ["a"]}, T0)["text"] == [None]
    assert new_reader.read({"id": ["a"]}, T0)["text"] == ["new"]


def test_what_was_brought_and_what_is_done_is_remembered_until_cleared(url: str) -> None:
    """Records in their order, notes until they are forgotten."""
    view = typed_view.view()
    writer, _ = _opened(url, view)
    lines = [
        Interval(
            service="s", digest="d", start=None, end=T0, at=T0, rows={}, versions={name: 1}
        ).to_line()
        for name in ("v", "other")
    ]
    for line in lines:
        writer.record(line)
    for work, rows in (("x", 1), ("y", 2), ("x", 3)):
        writer.note(work, rows)

    assert writer.recorded() == lines
    assert writer.notes() == {"x": 3, "y": 2}
    writer.forget(["x"])
    assert writer.notes() == {"y": 2}
    writer.clear([view])
    assert (writer.notes(), writer.recorded()) == ({}, lines[1:])


def test_requests_of_one_turn_share_a_query(url: str) -> None:
    """A hundred at once get each their own rows, over one connection."""
    import psycopg

    view = typed_view.view()
    writer, reader = _opened(url, view)
    writer.write(view, typed_view.frame(*[(f"u{n}", T0, float(n), n, "") for n in range(100)]))

    async def story() -> list[Any]:
        found = await asyncio.gather(
            *(reader.fetch({"id": [f"u{n}", f"u{99 - n}"]}, T0) for n in range(100))
        )
        return [item["whole"] for item in found]

    assert asyncio.run(story()) == [[n, 99 - n] for n in range(100)]
    with psycopg.connect(url) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'heliostat' AND datname = current_database()"  # fmt: skip
        assert connection.execute(query).fetchone() == (2,), "the writer and the reader"


def test_a_server_that_dies_is_told_and_comes_back(server: Server) -> None:
    """No half of a write is seen; the same writer and readers go on afterwards."""
    url = server.new_database().replace("+psycopg", "")
    view = typed_view.view()
    writer, reader = _opened(url, view)
    writer.write(view, typed_view.frame(("a", T0, 1.0, 1, "before")))

    async def story() -> list[Any]:
        found: list[Any] = [await reader.fetch({"id": ["a"]}, T0)]
        server.stop()
        for call in (
            lambda: asyncio.to_thread(
                writer.write, view, typed_view.frame(("a", T0, 2.0, 2, "lost"))
            ),
            lambda: asyncio.to_thread(reader.read, {"id": ["a"]}, T0),
            lambda: reader.fetch({"id": ["a"]}, T0),
        ):
            with pytest.raises(Unavailable, match=r"online store 127\.0\.0\.1"):
                await call()
        reader.drop()
        server.start()
        found.append(await reader.fetch({"id": ["a"]}, T0))
        return found

    assert [item["text"] for item in asyncio.run(story())] == [["before"], ["before"]]
    writer.write(view, typed_view.frame(("a", T0, 3.0, 3, "after")))
    assert reader.read({"id": ["a"]}, T0)["text"] == ["after"]


def test_a_name_that_the_server_would_cut_is_refused(url: str) -> None:
    """Two views would share a table."""
    view = typed_view.view(name="v" * 63)

    with pytest.raises(ConfigError, match="must be at most 60 letters in PostgreSQL"):
        PostgresWriter(url, "p").write(view, typed_view.frame(("a", T0, 1.0, 1, "")))


def test_a_url_opens_it(url: str, tmp_path: Path) -> None:
    """As a setting names it."""
    store = stores.Store(where=url, file=tmp_path, project="p")

    assert isinstance(store.open(), PostgresWriter)
