"""A vendor's client as a source: DuckDB's own, which answers in Arrow as warehouses' clients do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

from heliostat.data.arrow_source import ArrowReader
from heliostat.errors import Unavailable
from tests.unit.data.test_data_more_sources import taken


def answered(query: str) -> Iterator[pa.RecordBatch]:
    """What a user writes for a warehouse, in so many lines."""
    duckdb = pytest.importorskip("duckdb", reason="DuckDB: pip install heliostat[sources]")
    with duckdb.connect() as connection:
        yield from connection.sql(query).to_arrow_reader(1_000)


def refused(password: str) -> Iterator[pa.Table]:
    """A client whose words hold what nobody should see."""
    raise RuntimeError(f"login of me:{password} failed")


def test_rows_of_a_client_are_checked_and_counted_as_all_others() -> None:
    """In chunks of at most so many rows; types are kept and a broken row has its reason."""
    query = (
        "SELECT i AS id, CASE WHEN i = 2500 THEN 'x' END AS name, "
        "CASE WHEN i = 7 THEN TIMESTAMP '2027-01-01 00:00:00' END AS at "
        "FROM range(2501) AS t(i)"
    )
    source = ArrowReader(read=answered, name="duckdb:t", arguments={"query": query}, chunk_rows=600)
    (member,) = source.plan()

    num_rows, good, other = taken(source)

    assert member.header == ("id", "name", "at")
    assert (num_rows, len(good)) == (2501, 2500)
    assert good[-1] == (2500, "x", None)
    assert len(other) == 1
    assert "must not be after now" in other[0]
    sizes = [source.parse(raw, member).num_rows for _, raw in source.read_chunks(member, 0)]
    assert (sum(sizes), max(sizes)) == (2501, 600)


def test_an_answer_without_rows_is_one_without_rows() -> None:
    """As of a client that yields nothing at all."""
    source: Any = ArrowReader(read=iter, name="none", arguments={})
    empty = ArrowReader(read=tuple, name="none")

    assert taken(empty) == (0, [], [])
    with pytest.raises(Unavailable, match=r"^none: its client failed with TypeError"):
        source.plan()


def test_the_words_of_a_client_that_fails_are_not_shown() -> None:
    """They may hold the password: only the kind of error is told."""
    source = ArrowReader(read=refused, name="warehouse", arguments={"password": "hunter2"})

    with pytest.raises(Unavailable) as caught:
        source.plan()

    assert str(caught.value).startswith("warehouse: its client failed with RuntimeError")
    assert "hunter2" not in str(caught.value) + repr(caught.value.__cause__)
