"""Kafka as a log, against librdkafka's mock cluster."""

from __future__ import annotations

import time

import pytest

from heliostat.data.tables import Catalog
from heliostat.errors import ConfigError, Unavailable
from heliostat.streams.consumer import Consumer
from heliostat.streams.kafka_log import KafkaLog
from heliostat.streams.online import SqliteOnline
from heliostat.testing import brokers
from tests.unit.streams import orders

ALL = ("0", "1", "2", "3")


def drain(consumer, count: int) -> None:
    """Work until so many messages were read since the consumer began."""
    for _ in range(200):
        found = consumer.work(ALL, 0.1)
        if found.messages >= count:
            return
    raise AssertionError(found)


def poll_until_it_fails(reader) -> None:
    """The client notices a closed connection when it next fetches."""
    for _ in range(600):
        reader.poll(100, 0.1)
        time.sleep(0.05)


def poll_until_it_finds(reader) -> int:
    """How many messages came first; a busy machine may give none at once."""
    for _ in range(600):
        if found := sum(len(part.offsets) for part in reader.poll(100, 0.1)):
            return found
    return 0


def test_a_topic_goes_into_the_table_once_over_several_consumers(kafka, tmp_path):
    """Offsets come from the table alone; poison is a dead letter; lag ends at 0."""
    log = KafkaLog(servers=kafka, topic="orders")
    writer = log.writer()
    writer.send([*orders.messages(300), (b"c1", b"\xff")])
    catalog = Catalog(tmp_path / "tables")
    online = SqliteOnline(path=tmp_path / "online.db", project="shop")
    recipe = orders.recipe(log)
    assert log.partitions() == ALL
    first = Consumer(recipe, catalog, name="first", online=online)
    drain(first, 301)
    first._commit()
    writer.send(orders.messages(200, begin=300))
    second = Consumer(recipe, catalog, name="second", online=online)
    drain(second, 200)
    found = second.close()

    assert catalog.read("orders")["number"].sort().to_list() == list(range(500))
    assert catalog.read("orders_dead_letters")["raw"].to_list() == [b"\xff"]
    assert sum(found.behind.values()) == 0
    orders.assert_online_equals_batch(catalog, online, 20)


def test_how_far_behind_a_reader_is_is_known_before_it_reads(kafka):
    """A consumer that is kept from reading has a lag all the same."""
    log = KafkaLog(servers=kafka, topic="behind")
    log.writer().send(orders.messages(40))
    reader = log.open(dict.fromkeys(ALL), {})
    found = reader.behind()
    reader.close()

    assert sorted(found) == list(ALL)
    assert sum(found.values()) == 40


def test_a_topic_that_is_not_there_is_named(kafka):
    """Before anything is started."""
    with pytest.raises(ConfigError, match=r"log\.topic = 'nothing-here': must exist"):
        KafkaLog(servers=kafka, topic="nothing-here").partitions()


def test_a_topic_made_anew_under_the_same_name_is_not_taken_for_the_old_one(kafka):
    """Its offsets begin again: reading on at the old position would skip messages in silence."""
    log = KafkaLog(servers=kafka, topic="anew")
    log.writer().send(orders.messages(8))

    with pytest.raises(ConfigError, match="must be an offset that the topic still has"):
        log.open({"0": 5_000}, {})


def test_brokers_that_go_away_are_told_and_not_waited_for_without_end():
    """While reading, and when asked for partitions."""
    with brokers.kafka_cluster() as servers:
        log = KafkaLog(servers=servers, topic="orders", timeout_s=60.0)
        log.writer().send(orders.messages(8))
        reader = log.open(dict.fromkeys(ALL), {})
        found = poll_until_it_finds(reader)
    with pytest.raises(Unavailable, match=r"kafka 127\.0\.0\.1"):
        poll_until_it_fails(reader)
    reader.close()
    with pytest.raises(Unavailable, match=r"kafka 127\.0\.0\.1"):
        # Only now is it short: nobody is there who could answer in time.
        KafkaLog(servers=servers, topic="orders", timeout_s=1.0).partitions()

    assert found > 0
