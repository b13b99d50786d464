from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from heliostat.data.kinesis_source import KinesisStream
from heliostat.data.mongo_source import PASSWORD, MongoQuery
from heliostat.data.rows import Source
from heliostat.errors import ConfigError, Unavailable
from tests.unit.data import mongo_server

bson = pytest.importorskip("bson", reason="MongoDB needs its client: pip install pymongo")


def _rows(source: Source) -> list[dict[str, Any]]:
    """All rows of a source, as ingest reads and parses them; none may be malformed."""
    rows = []
    for member in source.plan():
        for first in source.readers(member):
            for _, raw in source.read_chunks(member, first):
                parsed = source.parse(raw, member)
                assert not parsed.malformed
                assert parsed.num_rows == parsed.rows.height
                rows += parsed.rows.drop("__line").to_dicts()
    return rows


def test_documents_come_in_chunks_with_each_value_as_json_has_it() -> None:
    """Through several pages of a cursor; ids and decimals as text, moments as ISO 8601."""
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    documents = [{"_id": bson.ObjectId(b"%012d" % n), "n": n} for n in range(2_500)]
    documents[7] |= {"at": moment, "price": bson.Decimal128("1.10"), "tags": ["a", {"b": None}]}
    with mongo_server.serving(documents) as (server, port):
        source = MongoQuery(
            url=f"mongodb://127.0.0.1:{port}/shop", collection="orders", chunk_rows=1_000
        )
        rows = _rows(source)

    assert [row["n"] for row in rows] == list(range(2_500))
    assert rows[7]["_id"] == str(documents[7]["_id"])
    assert rows[7]["at"] == "2026-01-02T03:04:05+00:00"
    assert (rows[7]["price"], rows[7]["tags"]) == ("1.10", '["a",{"b":null}]')
    assert sum("getMore" in asked for asked in server.asked) == 2


def test_a_filter_is_the_database_s_to_answer() -> None:
    """One that it does not know is an error of the recipe."""
    with mongo_server.serving([{"n": 1}, {"n": 2}]) as (_, port):
        url = f"mongodb://127.0.0.1:{port}/shop"
        found = _rows(MongoQuery(url=url, collection="orders", where='{"n": 2}'))
        with pytest.raises(ConfigError) as caught:
            MongoQuery(url=url, collection="orders", where='{"$nonsense": 1}').plan()

    assert found == [{"n": 2}]
    assert str(caught.value) == (
        "source.where = '{\"$nonsense\": 1}': must be answered by the database; "
        "unknown top level operator: $nonsense"
    )


def test_a_password_of_mongodb_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by a server that refuses it, nor by a URL that should not hold it."""
    monkeypatch.setenv(PASSWORD, "hunter2")
    with mongo_server.serving([]) as (_, port):
        source = MongoQuery(url=f"mongodb://me@127.0.0.1:{port}/shop", collection="orders")
        with pytest.raises(Unavailable) as refused:
            source.plan()
    with pytest.raises(ConfigError) as held:
        MongoQuery(url="mongodb://me:hunter2@db/shop", collection="orders")

    assert str(refused.value).startswith(f"{source.url}: refuses the user or the password")
    for error in (refused.value, held.value):
        assert "hunter2" not in str(error) + repr(error) + repr(error.__cause__)
    assert "hunter2" not in repr(source)


@pytest.fixture
def stream(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> tuple[Any, KinesisStream]:
    """A stream of two shards on moto's server, with the client that fills it."""
    boto3 = pytest.importorskip("boto3", reason="Kinesis needs its client: pip install boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, s3[name])
    client = boto3.client("kinesis", region_name="us-east-1", endpoint_url=s3["AWS_ENDPOINT_URL"])
    name = f"orders-{time.time_ns()}"
    client.create_stream(StreamName=name, ShardCount=2)
    source = KinesisStream(
        stream=name, region="us-east-1", endpoint=s3["AWS_ENDPOINT_URL"], settled_ms=0,
        chunk_records=7,
    )  # fmt: skip
    return client, source


def _put(client: Any, source: KinesisStream, numbers: range) -> None:
    for n in numbers:
        client.put_record(
            StreamName=source.stream, PartitionKey=str(n), Data=json.dumps({"n": n}).encode()
        )
    # Arrival times have milliseconds, and a read takes what came before its own.
    time.sleep(0.01)


def test_a_stream_goes_on_where_the_last_read_ended(stream: tuple[Any, KinesisStream]) -> None:
    """Every record once over two reads, from both shards."""
    client, source = stream
    _put(client, source, range(50))
    members = source.plan()
    first = _rows(source)
    again = KinesisStream(
        stream=source.stream, region=source.region, endpoint=source.endpoint, settled_ms=0,
        start=source.position(source.plan()),
    )  # fmt: skip
    _put(client, again, range(50, 60))

    assert len(members) == 2
    assert sorted(row["n"] for row in first) == list(range(50))
    assert sorted(row["n"] for row in _rows(again)) == list(range(50, 60))


def test_a_stream_that_is_not_there_or_has_dropped_records_is_told(
    stream: tuple[Any, KinesisStream],
) -> None:
    """Before anything is read."""
    _, source = stream
    settings = {"region": source.region, "endpoint": source.endpoint}

    with pytest.raises(ConfigError, match=r"source\.stream = 'none': must exist"):
        KinesisStream(stream="none", **settings).plan()
    with pytest.raises(ConfigError, match="must still be in the stream; it keeps records for 24 h"):
        KinesisStream(stream=source.stream, start={"shardId-000000000000": 1}, **settings).plan()


def test_a_kinesis_that_does_not_answer_is_told_without_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client's own words may hold the request."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")

    with pytest.raises(Unavailable) as caught:
        KinesisStream(stream="s", region="us-east-1", endpoint="http://127.0.0.1:9").plan()

    assert str(caught.value).startswith("kinesis s: EndpointConnectionError")
    assert "hunter2" not in repr(caught.value)
