from __future__ import annotations

import sqlite3
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from heliostat.data.checks import check
from heliostat.data.contract import Column, Contract
from heliostat.data.file_sources import JsonFiles, ParquetFiles
from heliostat.data.kafka_source import KafkaTopic
from heliostat.data.rows import LINE, Source
from heliostat.data.sinks import DuckDbSink, FileSink, PostgresSink, SqliteSink, copy
from heliostat.data.sources import CsvFiles
from heliostat.data.sql_sources import DuckDbQuery, PostgresQuery, SqliteQuery
from heliostat.data.tables import Catalog
from heliostat.errors import ConfigError, Unavailable

NOW = datetime(2026, 1, 2, tzinfo=UTC)
CONTRACT = Contract(
    table="t",
    columns=(
        Column(name="id", dtype="int64"),
        Column(name="name", dtype="string", nullable=True),
        Column(name="at", dtype="timestamp", nullable=True, not_in_future=True),
    ),
)
ROWS = pl.DataFrame(
    {
        "id": [1, 2, 3],
        "name": ["ä", None, 'q"\n'],
        "at": [datetime(2026, 1, 1, tzinfo=UTC), None, datetime(2027, 1, 1, tzinfo=UTC)],
    },
    schema={"id": pl.Int64, "name": pl.String, "at": pl.Datetime("us", "UTC")},
)


def taken(source: Source) -> tuple[int, list[tuple], list[str]]:
    """Rows in all, good rows, and reason with raw text of each other; all are accounted for."""
    num_rows, good, other = 0, [], []
    for member in source.plan():
        for first in source.readers(member):
            for _, raw in source.read_chunks(member, first):
                chunk = source.parse(raw, member)
                assert chunk.rows.height + len(chunk.malformed) == chunk.num_rows
                num_rows += chunk.num_rows
                found, refused = check(chunk.rows, CONTRACT, NOW)
                good += found.drop(LINE).rows()
                other += [
                    f"{item.reason} | {chunk.text(item.line)}"
                    for item in (*chunk.malformed, *refused)
                ]
    assert num_rows == len(good) + len(other)
    return num_rows, good, other


GOOD = ROWS.rows()[:2]


def test_json_lines_of_any_kind_end_as_rows_or_as_reasons(tmp_path: Path) -> None:
    """Mixed types, no object, broken text, nested values; however the file is cut."""
    path = tmp_path / "rows.json"
    path.write_bytes(
        '{"id": 1, "name": "ä", "at": "2026-01-01T00:00:00Z"}\n'
        '{"id": "2", "name": null, "at": null}\n\n'
        '{"id": 2.5}\n'
        '{"id": 4, "at": "2027-01-01T00:00:00Z"}\n'
        '[1]\n{"id": 5\n'.encode()
        + b'{"id": 6, "name": "\xff"}\n'
        + b'{"id": 7, "name": {"first": "x"}}'
    )

    for chunk_bytes in (30, 10_000):
        num_rows, good, other = taken(JsonFiles(paths=(str(path),), chunk_bytes=chunk_bytes))

        assert num_rows == 8
        assert sorted(good) == [*GOOD, (7, '{"first":"x"}', None)]
        assert sorted(line.split(":")[0] for line in other) == [
            "at = '2027-01-01T00",
            "id = '2.5'",
            "line",
            "line",
            "line",
        ] or sorted(line.split(":")[0] for line in other) == [
            "at = '2027-01-01T00",
            "id = 2.5",
            "line",
            "line",
            "line",
        ]


def test_parquet_rows_keep_their_types_and_a_cut_file_is_refused(tmp_path: Path) -> None:
    """A row group is a chunk; the error of a cut file names it."""
    path = tmp_path / "rows.parquet"
    ROWS.write_parquet(path, row_group_size=2)

    assert taken(ParquetFiles(paths=(str(path),))) == (
        3,
        GOOD,
        [
            (
                "at = datetime.datetime(2027, 1, 1, 0, 0, tzinfo=zoneinfo.ZoneInfo(key='UTC')): "
                f"must not be after now, {NOW.isoformat()} | "
                '{"id":3,"name":"q\\"\\n","at":"2027-01-01T00:00:00Z"}'
            )
        ],
    )
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match=r"rows\.parquet': must be a whole Parquet file"):
        ParquetFiles(paths=(str(path),)).plan()


def test_an_sqlite_query_is_read_in_chunks_with_mixed_types(tmp_path: Path) -> None:
    """SQLite lets any value into any column; the contract does not."""
    path = tmp_path / "db.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (id, name, at)")
        connection.executemany(
            "INSERT INTO t VALUES (?, ?, ?)",
            [(1, "ä", "2026-01-01 00:00:00"), ("x", None, None), (2, None, None)],
        )

    source = SqliteQuery(path=str(path), query="SELECT * FROM t", chunk_rows=2)
    assert taken(source) == (
        3,
        GOOD,
        ["id = 'x': must be int64 | " + '{"id":"x","name":null,"at":null}'],
    )
    with pytest.raises(ConfigError, match="must be answered by the database; no such table: u"):
        SqliteQuery(path=str(path), query="SELECT * FROM u").plan()


def test_a_table_goes_to_postgres_and_comes_back(
    tmp_path: Path, postgres: str, monkeypatch
) -> None:
    """By COPY into a real server and out by a server-side cursor; copied twice, once there."""
    monkeypatch.setenv("PGPASSWORD", "correct")
    catalog = Catalog(tmp_path / "tables")
    catalog.write("t", ROWS.head(2), run_id="a")
    sink = PostgresSink(url=postgres, table="public.my t")

    assert [copy(catalog, "t", sink) for _ in range(2)] == [2, 2]
    source = PostgresQuery(url=postgres, query='SELECT * FROM public."my t"', chunk_rows=1)
    assert taken(source) == (2, GOOD, [])


def test_a_table_goes_to_every_embedded_sink_and_comes_back(tmp_path: Path) -> None:
    """The same rows through files, SQLite and DuckDB; copied twice, once there."""
    pytest.importorskip("duckdb", reason="DuckDB is not installed: pip install duckdb")
    catalog = Catalog(tmp_path / "tables")
    catalog.write("t", ROWS.head(2), run_id="a")
    places = {
        "csv": (FileSink(path=str(tmp_path / "t.csv"), kind="csv"),
                CsvFiles(paths=(str(tmp_path / "t.csv"),))),
        "json": (FileSink(path=str(tmp_path / "t.json"), kind="json"),
                 JsonFiles(paths=(str(tmp_path / "t.json"),))),
        "parquet": (FileSink(path=str(tmp_path / "t.parquet"), kind="parquet"),
                    ParquetFiles(paths=(str(tmp_path / "t.parquet"),))),
        "sqlite": (SqliteSink(path=str(tmp_path / "t.sqlite"), table="my t"),
                   SqliteQuery(path=str(tmp_path / "t.sqlite"), query='SELECT * FROM "my t"')),
        "duckdb": (DuckDbSink(path=str(tmp_path / "t.duckdb"), table="my t"),
                   DuckDbQuery(path=str(tmp_path / "t.duckdb"), query='SELECT * FROM "my t"')),
    }  # fmt: skip

    for name, (sink, source) in places.items():
        assert [copy(catalog, "t", sink) for _ in range(2)] == [2, 2], name
        assert taken(source) == (2, GOOD, []), name


def test_a_database_that_refuses_or_is_gone_is_told_without_the_password(
    postgres: str, monkeypatch
) -> None:
    """Exit code 4, and no secret in any word of it."""
    monkeypatch.setenv("PGPASSWORD", "wrong-secret")
    gone = postgres.replace(postgres.rsplit(":", maxsplit=1)[-1].split("/", maxsplit=1)[0], "9")

    for url, word in ((postgres, "password authentication failed"), (gone, "refused")):
        with pytest.raises(Unavailable) as caught:
            PostgresQuery(url=url, query="SELECT 1").plan()
        assert word in str(caught.value)
        assert "wrong-secret" not in repr(caught.value)
    with pytest.raises(ConfigError) as refused:
        PostgresQuery(url="postgresql://me:wrong-secret@h/x", query="SELECT 1")
    assert "wrong-secret" not in str(refused.value)


def test_a_topic_is_read_to_its_end_and_next_time_goes_on_there(kafka: str) -> None:
    """No message is lost and none comes twice; the place is plain values to keep with a commit."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": kafka})

    def send(*messages: bytes) -> None:
        for message in messages:
            producer.produce("orders", message, partition=0)
        assert producer.flush(10) == 0

    send(b'{"id": 1, "name": "\xc3\xa4", "at": "2026-01-01T00:00:00Z"}', b'{"id": 2}', b"broken")
    source = KafkaTopic(servers=kafka, topic="orders", chunk_messages=2)

    num_rows, good, other = taken(source)
    assert (num_rows, good) == (3, GOOD)
    assert len(other) == 1
    place = source.position(source.plan())
    assert place["0"] == 3
    send(b'{"id": 9}')
    following = KafkaTopic(servers=kafka, topic="orders", start=place)
    assert taken(following) == (1, [(9, None, None)], [])
    assert taken(KafkaTopic(servers=kafka, topic="orders", start={"0": 4}))[0] == 0


def test_a_broker_that_is_gone_is_told(kafka: str) -> None:
    """Exit code 4 after the timeout, not a wait without end."""
    with pytest.raises(Unavailable, match=r"^kafka 127\.0\.0\.1:9: "):
        KafkaTopic(servers="127.0.0.1:9", topic="orders", timeout_s=0.5).plan()


@pytest.mark.parametrize("chunk_bytes", [1, 30, 10_000])
@pytest.mark.parametrize("packed", [False, True])
def test_quoted_line_ends_are_part_of_a_row_where_asked_for(
    tmp_path: Path, chunk_bytes: int, packed: bool
) -> None:
    """However the file is cut; refused rows keep the number of their first physical line."""
    path = tmp_path / "rows.csv"
    path.write_bytes(b'id,name,at\n1,"a\nb",\n\nx,"c\n\nd",\n2,plain,\n3,"open\n4,never,\n')
    if packed:
        with zipfile.ZipFile(tmp_path / "rows.zip", "w") as archive:
            archive.write(path, "rows.csv")
        path = tmp_path / "rows.zip"
    source = CsvFiles(paths=(str(path),), chunk_bytes=chunk_bytes, multiline=True)
    (member,) = source.plan()

    good, refused, before = [], [], 2
    for _, raw in source.read_chunks(member, 0):
        chunk = source.parse(raw, member)
        found, broken = check(chunk.rows, CONTRACT, NOW)
        good += found.drop(LINE).rows()
        refused += [
            (before + chunk.number(item.line), chunk.text(item.line))
            for item in (*chunk.malformed, *broken)
        ]
        before += chunk.num_lines

    assert good == [(1, "a\nb", None), (2, "plain", None)]
    assert refused == [(5, 'x,"c\n\nd",'), (9, '3,"open\n4,never,\n')]
    assert before == 11
