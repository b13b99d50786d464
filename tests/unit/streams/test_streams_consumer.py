"""One consumer against a real Redis: tables, the online store, faults of every kind."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from heliostat.data.tables import Catalog
from heliostat.errors import ConfigError
from heliostat.features.online import OnlineReader
from heliostat.features.stores import Store
from heliostat.streams.consumer import Consumer
from heliostat.streams.online import SqliteOnline
from heliostat.streams.redis_log import RedisLog
from heliostat.testing.clock import Clock
from heliostat.testing.redis import RedisServer
from tests.unit.streams import orders

ALL = ("0", "1", "2", "3")


class Shop:
    """A stream of orders on a server, with its tables."""

    def __init__(self, server, folder, **more) -> None:
        self.server = server
        self.log = RedisLog(url=server.url, topic="orders", timeout_s=0.5)
        self.recipe = orders.recipe(self.log, **more)
        self.catalog = Catalog(folder / "tables")
        self.online = SqliteOnline(path=folder / "online.db", project="shop")
        self.writer = self.log.writer()

    def consumer(self, name="c") -> Consumer:
        return Consumer(self.recipe, self.catalog, name=name, online=self.online)

    def numbers(self) -> list[int]:
        return sorted(self.catalog.read("orders")["number"].to_list())

    def dead(self):
        return self.catalog.read("orders_dead_letters").sort("stream_offset")


def read_all(consumer, count: int, partitions=ALL) -> None:
    """Work until so many messages were read since the consumer began."""
    for _ in range(100):
        found = consumer.work(partitions, 0.1)
        if found.messages >= count:
            return
    raise AssertionError(found)


def add(client, stream: str, field: bytes, value: bytes) -> None:
    """Append an entry as another producer may."""
    client.call([(b"XADD", stream.encode(), b"*", field, value)])


def drain(consumer) -> None:
    """Work until every partition has been read to its end."""
    for _ in range(100):
        found = consumer.work(ALL, 0.1)
        if len(found.behind) == len(ALL) and not sum(found.behind.values()):
            return
    raise AssertionError(found)


@pytest.fixture
def shop(redis_server, tmp_path) -> Shop:
    return Shop(redis_server, tmp_path)


def test_every_message_is_in_the_table_once_and_its_counts_are_online(shop):
    """Rows, offsets, and the same values as the batch over the table."""
    shop.writer.send(orders.messages(500))
    consumer = shop.consumer()
    read_all(consumer, 500)
    found = consumer.close()

    assert shop.numbers() == list(range(500))
    assert (found.rows, found.dead, found.problem) == (500, {}, None)
    assert orders.assert_online_equals_batch(shop.catalog, shop.online, 20) == 20 * 12
    assert sum(found.behind.values()) == 0


def test_values_go_to_a_server_as_well_and_it_may_go_and_come(shop, tmp_path):
    """Redis for the gateways' reads: the same values as the batch, before and after it was away."""
    (tmp_path / "online").mkdir()
    server = RedisServer(tmp_path / "online")
    server.start()
    try:
        shop.online = Store(where=server.url, file=tmp_path / "unused", project="shop")
        consumer = shop.consumer()
        shop.writer.send(orders.messages(200))
        read_all(consumer, 200)
        consumer._commit()
        orders.assert_online_equals_batch(shop.catalog, shop.online, 20)
        server.kill()
        shop.writer.send(orders.messages(100, begin=200))
        read_all(consumer, 300)
        told = consumer.work(ALL, 0.1).problem
        server.start()
        for _ in range(50):
            if consumer.work(ALL, 0.1).problem is None:
                break
        consumer.close()

        assert str(told).startswith("online store: ")
        assert shop.numbers() == list(range(300))
        reader = orders.reader_of(shop.online)
        stored = reader.read({"customer": [f"c{n}" for n in range(20)]}, None)["count_7d"]
        # An empty server came back: it has those that changed since, in full, and no others.
        assert {value for value in stored if value is not None} == {15}
    finally:
        server.kill()


def test_a_consumer_that_died_before_its_commit_is_replaced_without_a_trace(shop):
    """What it had read, judged and even put online is read again from where the table stands."""
    shop.writer.send(orders.messages(100))
    read_all(first := shop.consumer(), 100)
    first._commit()
    shop.recipe = orders.recipe(shop.log, commit_every_s=1e9, lateness_s=1e6)
    shop.writer.send(orders.messages(100, begin=100))
    read_all(dies := shop.consumer(), 100)
    before = shop.numbers()
    shop.writer.send(orders.messages(100, begin=200))
    read_all(second := shop.consumer(), 200)
    second.close()

    assert dies._pending_rows == 100
    assert before == list(range(100))
    assert shop.numbers() == list(range(300))
    orders.assert_online_equals_batch(shop.catalog, shop.online, 20)


def test_one_that_was_given_up_for_dead_and_goes_on_is_refused_by_the_table(shop):
    """Two read the same partitions: one commits, the other drops what it has and reads anew."""
    first, second = shop.consumer("first"), shop.consumer("second")
    for begin in range(0, 300, 100):
        shop.writer.send(orders.messages(100, begin=begin))
        drain(first)
        drain(second)
    drain(first)
    first._commit()
    drain(second)
    moved = first.close().moved + second.close().moved

    assert shop.numbers() == list(range(300))
    assert moved > 0
    orders.assert_online_equals_batch(shop.catalog, shop.online, 20)


def test_partitions_that_change_hands_take_their_windows_along(shop):
    """Each entity goes on counting where the last reader stopped.

    Who gives a partition up answers before the other is told of it, as the driver has it.
    """
    left, right = shop.consumer("left"), shop.consumer("right")
    for turn in range(5):
        shop.writer.send(orders.messages(200, begin=turn * 200))
        right.work(ALL[turn:], 0.2)
        left.work(ALL[:turn], 0.2)
    left.work((), 0.01)
    right.work((), 0.01)
    drain(last := shop.consumer("last"))
    last.close()

    assert shop.numbers() == list(range(1000))
    assert left.close().moved == right.close().moved == 0
    orders.assert_online_equals_batch(shop.catalog, shop.online, 20)


def test_poison_late_and_future_messages_are_dead_letters_and_nothing_is_lost(shop):
    """Rows and dead letters are all messages; each letter has its bytes and why."""
    now = datetime.now(UTC)
    good = orders.messages(50, now=now)
    bad = [
        (b"c1", b"\x00\xff poison"),
        (b"c1", b'{"customer": NaN}'),
        orders.message(100, now, customer=None),
        orders.message(101, now + timedelta(days=365)),
        orders.message(102, now - timedelta(days=1)),
        (b"c1", b""),
    ]
    shop.writer.send(good)
    # Into a partition that has events already, so that one can be late.
    client = shop.log.connect()
    partition = shop.log.partition(b"c1")
    for _, value in bad:
        add(client, shop.log.stream(partition), b"value", value)
    add(client, shop.log.stream(partition), b"other", b"no value")
    read_all(consumer := shop.consumer(), 57)
    found = consumer.close()

    assert shop.numbers() == list(range(50))
    assert found.dead == {"malformed": 2, "contract": 1, "future": 1, "late": 1, "empty": 2}
    dead = shop.dead()
    assert dead["raw"].to_list() == [*(value for _, value in bad), b""]
    assert dead["kind"].to_list()[3:5] == ["future", "late"]
    assert "customer = None: must not be missing" in dead["reason"][2]


def test_a_kill_between_dead_letters_and_the_table_doubles_neither(shop):
    """Letters are committed first; who reads again leaves out those that are there."""
    shop.writer.send(orders.messages(30))
    stream = shop.log.stream("0")
    add(shop.log.connect(), stream, b"value", b"poison")
    dies = shop.consumer()
    dies._recipe = orders.recipe(shop.log, commit_every_s=1e9)
    read_all(dies, 31)
    busy = [held for held in dies._held.values() if held.pending]
    letters = [judged.dead for held in busy for judged in held.pending if judged.dead.height]
    ends = {shop.recipe.place(held.partition): held.next for held in busy}
    dies._commit_aside(shop.recipe.dead_letters, letters[0], ends)
    read_all(second := shop.consumer(), 31)
    second.close()

    assert shop.dead()["raw"].to_list() == [b"poison"]
    assert shop.numbers() == list(range(30))


def test_a_broker_that_is_away_or_hangs_is_told_and_costs_nothing(shop):
    """Killed with messages in it, then hung: the consumer says so, and goes on afterwards."""
    shop.writer.send(orders.messages(100))
    consumer = shop.consumer()
    read_all(consumer, 100)
    shop.writer.send(orders.messages(100, begin=100))
    shop.server.kill()
    away = consumer.work(ALL, 0.1)
    shop.server.start()
    read_all(consumer, 200)
    shop.server.hang()
    hung = consumer.work(ALL, 0.1)
    shop.server.go_on()
    shop.log.writer().send(orders.messages(100, begin=200))
    read_all(consumer, 300)
    consumer.close()

    assert "redis redis://127.0.0.1" in str(away.problem)
    assert "timed out" in str(hung.problem)
    assert shop.numbers() == list(range(300))


def test_an_online_store_that_is_away_holds_up_no_table_and_gets_everything_later(shop, tmp_path):
    """Values are remembered by entity, told as a problem, and written when it is back."""
    blocked = tmp_path / "no-folder"
    blocked.write_text("a file where the store's folder should be")
    shop.online = SqliteOnline(path=blocked / "online.db", project="shop")
    shop.writer.send(orders.messages(100))
    consumer = shop.consumer()
    read_all(consumer, 100)
    consumer._commit()
    told = consumer.work(ALL, 0.1).problem
    blocked.unlink()
    consumer.work(ALL, 0.1)
    consumer.close()

    assert str(told).startswith("online store: ")
    assert shop.numbers() == list(range(100))
    orders.assert_online_equals_batch(shop.catalog, shop.online, 20)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            b"DEL %s",
            "is gone, after",
        ),
        (b"XTRIM %s MAXLEN 1", "messages were cut off before they"),
    ],
)
def test_a_stream_that_vanished_or_was_cut_stops_with_the_reason(shop, spoil, said):
    """What cannot be read any more is never skipped in silence."""
    shop.writer.send(orders.messages(100))
    consumer = shop.consumer()
    read_all(consumer, 100)
    consumer.close()
    shop.writer.send(orders.messages(100, begin=100))
    shop.log.connect().call([(spoil % shop.log.stream("2").encode()).split()])

    try:
        found = shop.consumer().work(ALL, 0.1).problem
    except ConfigError as error:
        found = str(error)

    assert said in str(found)
    assert set(range(100)) <= set(shop.numbers())


def test_a_stream_made_anew_under_the_same_name_is_not_taken_for_the_old_one(shop):
    """Its few messages would be behind the position, and never read."""
    shop.writer.send(orders.messages(100))
    read_all(consumer := shop.consumer(), 100)
    consumer.close()
    client = shop.log.connect()
    for partition in ALL:
        client.call([(b"DEL", shop.log.stream(partition).encode())])
    shop.writer.send(orders.messages(8))

    with pytest.raises(ConfigError, match="it was made anew"):
        shop.consumer().work(ALL, 0.1)


def test_values_fade_without_new_events_once_the_partition_is_idle(shop):
    """The clock lets an hour pass: what happened before it is counted for the day only."""
    now = datetime.now(UTC)
    clock = Clock(now.timestamp())
    shop.recipe = orders.recipe(shop.log, idle_s=0.01)
    shop.writer.send(orders.messages(40, now=now))
    consumer = Consumer(shop.recipe, shop.catalog, name="c", online=shop.online, clock=clock)
    read_all(consumer, 40)
    clock.advance(7_200)
    consumer.work(ALL, 0.2)
    consumer.close()

    reader = OnlineReader(shop.online.path, "shop", [orders.VIEW])
    found = reader.read({"customer": ["c0", "c7"]}, None)
    assert (found["count_1h"], found["count_1d"]) == ([0, 0], [2, 2])


def test_the_commit_keeps_how_the_stream_stands(shop):
    """What `heliostat stream status` reads, without asking a broker."""
    shop.writer.send(orders.messages(40))
    read_all(consumer := shop.consumer("first"), 40)
    consumer.close()
    details = shop.catalog.history("orders", 1)[0].details

    assert details["stream"]["consumer"] == "first"
    assert set(details["stream"]["partitions"]) == {f"orders/{number}" for number in range(4)}
    assert json.dumps(details)
