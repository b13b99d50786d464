from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from heliostat.errors import ConfigError, HeliostatError, Unavailable
from heliostat.features import stores
from heliostat.features.columns import stored
from heliostat.features.definitions import Feature, FeatureView
from heliostat.features.lookups import HashView
from heliostat.features.packed import PackedView, feast_fields
from heliostat.features.redis_client import RedisAddress, RedisConnection
from heliostat.features.redis_store import RedisHashReader, RedisReader, RedisWriter
from tests.unit.features import typed_view

T0 = datetime(2026, 1, 10, 12, tzinfo=UTC)
MICRO = timedelta(microseconds=1)
MOMENT = pl.Datetime("us", "UTC")


def _opened(server: Any, view: FeatureView) -> tuple[RedisWriter, RedisReader]:
    address = RedisAddress.parse(server.url)
    return RedisWriter(address, "p"), RedisReader(address, [PackedView.of("p", view)])


def test_values_come_back_as_they_were_written(redis: Any) -> None:
    """Numbers, texts and nulls; strangers and null keys are missing, a NaN key is refused."""
    view = typed_view.view()
    writer, reader = _opened(redis, view)
    writer.write(
        view, typed_view.frame(("a", T0, -0.5, 2**53 + 1, "ü"), ("b", T0, None, None, None), ("", T0, 1.0, -1, ""))
    )  # fmt: skip

    assert reader.read({"id": ["a", "b", "", "c", None, "a"]}, T0) == {
        "real": [-0.5, None, 1.0, None, None, -0.5],
        "whole": [2**53 + 1, None, -1, None, None, 2**53 + 1],
        "text": ["ü", None, "", None, None, "ü"],
    }
    with pytest.raises(ConfigError, match="entity key = nan: must be text or a whole number"):
        reader.read({"id": ["a", float("nan")]}, T0)  # type: ignore[list-item]


def test_feasts_hashes_are_read_as_our_records_are(redis: Any) -> None:
    """Of several views in one round trip: values, nulls, strangers, missing keys, and age."""
    old, young = typed_view.view(), typed_view.view(name="other", ttl_s=None)
    writer, reader = _opened(redis, old)
    for view in (old, young):
        writer.write(
            view, typed_view.frame(("a", T0, -0.5, 2**53 + 1, "ü"), ("b", T0, None, -7, ""))
        )
    address = RedisAddress.parse(redis.url)
    names = tuple(item.name for item in old.features)
    assert old.ttl_s is not None

    for age in (
        -MICRO,
        0 * MICRO,
        timedelta(seconds=old.ttl_s),
        timedelta(seconds=old.ttl_s) + MICRO,
    ):
        keys: Any = {"id": ["a", "b", "c", None]}
        hashes = RedisHashReader(
            address,
            [
                HashView(
                    project="p",
                    name=old.name,
                    keys=("id",),
                    features=names,
                    ttl_us=round(old.ttl_s * 1e6),
                )
            ],
        )
        wanted = reader.read(keys, T0 + age)
        assert hashes.read(keys, T0 + age) == wanted
        assert asyncio.run(hashes.fetch(keys, T0 + age)) == wanted
    both = RedisHashReader(
        address,
        [
            HashView(project="p", name=name, keys=("id",), features=(feature,), ttl_us=None)
            for name, feature in ((old.name, "real"), ("other", "whole"))
        ],
    )
    assert both.read({"id": ["b", "a", "c"]}, T0) == {
        "real": [None, -0.5, None], "whole": [-7, 2**53 + 1, None],
    }  # fmt: skip


@pytest.mark.parametrize(("age", "seen"), [(-MICRO, False), (0 * MICRO, True), (60 * 10**6 * MICRO, True), (60 * 10**6 * MICRO + MICRO, False)])  # fmt: skip
@pytest.mark.parametrize("rows", [1, 40])
def test_a_value_counts_from_its_event_to_its_time_to_live(
    redis: Any, age: timedelta, seen: bool, rows: int
) -> None:
    """Both ends included, to the microsecond, one row or many."""
    view = typed_view.view(features=(Feature(name="real", dtype="float64"),))
    writer, reader = _opened(redis, view)
    writer.write(view, typed_view.frame(("a", T0, 0.5, 1, "")).drop("whole", "text"))

    found = reader.read({"id": ["a"] * rows}, T0 + age)

    assert found == {"real": [0.5 if seen else None] * rows}


def test_the_newest_event_stays_whatever_the_order(redis: Any) -> None:
    """Also across batches, and an equal event is a correction."""
    view = typed_view.view(ttl_s=None)
    writer, reader = _opened(redis, view)
    moments = [T0 + timedelta(microseconds=n % 7) + timedelta(days=n % 3) for n in range(60)]
    random.Random(3).shuffle(moments)
    for number, moment in enumerate(moments):
        writer.write(view, typed_view.frame(("a", moment, float(number), number, str(number))))
    newest = max(moments)
    last = max(number for number, moment in enumerate(moments) if moment == newest)

    assert reader.read({"id": ["a"]}, None)["whole"] == [last]


def test_moments_before_1970_are_older(redis: Any) -> None:
    """Their numbers are negative; their bytes are smaller all the same."""
    view = typed_view.view(ttl_s=None)
    writer, reader = _opened(redis, view)
    for year, number in ((1950, 1), (1969, 2), (1930, 0)):
        writer.write(view, typed_view.frame(("a", T0.replace(year=year), 0.0, number, "")))

    assert reader.read({"id": ["a"]}, None)["whole"] == [2]


def test_two_versions_of_a_view_are_served_side_by_side(redis: Any) -> None:
    """A changed definition is another version; each reader sees its own."""
    old, new = typed_view.view(ttl_s=60.0), typed_view.view(ttl_s=61.0)
    (writer, old_reader), (_, new_reader) = _opened(redis, old), _opened(redis, new)
    writer.write(old, typed_view.frame(("a", T0, 1.0, 1, "old")))
    writer.write(new, typed_view.frame(("a", T0, 2.0, 2, "new")))

    assert old_reader.read({"id": ["a"]}, T0)["text"] == ["old"]
    assert new_reader.read({"id": ["a"]}, T0)["text"] == ["new"]


@pytest.mark.parametrize("with_text", [False, True])
def test_many_random_rows_read_alike_alone_and_together(redis: Any, with_text: bool) -> None:
    """The two ways of decoding agree, over more than 64 features."""
    source = random.Random(1)
    features = [Feature(name=f"f{n}", dtype="int64" if n % 3 else "float64") for n in range(70)]
    if with_text:
        features[5] = Feature(name="f5", dtype="string")
    view = typed_view.view(features=tuple(features), keys=("zone", "id"), integer_keys=("id",))
    kinds = {"float64": pl.Float64, "int64": pl.Int64, "string": pl.String}
    values = {"float64": source.random, "int64": lambda: source.randrange(-9, 9), "string": lambda: "é" * source.randrange(4)}  # fmt: skip
    rows = 300
    frame = pl.DataFrame(
        {
            "zone": [f"z{n % 2}" for n in range(rows)], "id": list(range(rows)),
            "event_timestamp": pl.Series([T0 - timedelta(seconds=n % 90) for n in range(rows)], dtype=MOMENT),
            **{
                item.name: pl.Series(
                    [None if source.random() < 0.1 else values[item.dtype]() for _ in range(rows)],
                    dtype=kinds[item.dtype],
                )
                for item in features
            },
        }
    )  # fmt: skip
    writer, reader = _opened(redis, view)
    assert writer.write(view, frame) == rows

    keys = {"zone": [*frame["zone"], "z9"], "id": [*frame["id"], 1]}
    together = reader.read(keys, T0)
    alone = [
        reader.read({name: [column[row]] for name, column in keys.items()}, T0)
        for row in range(rows + 1)
    ]

    assert together == {name: [row[name][0] for row in alone] for name in together}
    for name, column in together.items():
        assert column == [
            value if number % 90 <= 60 else None for number, value in enumerate(frame[name])
        ] + [None]


def test_an_event_loop_reads_what_a_thread_reads(redis: Any) -> None:
    """Two hundred at once over one connection, each its own answer."""
    view = typed_view.view()
    writer, reader = _opened(redis, view)
    writer.write(view, typed_view.frame(*((f"u{n}", T0, float(n), n, str(n)) for n in range(200))))

    async def ask() -> list[Any]:
        return await asyncio.gather(*(reader.fetch({"id": [f"u{n}"]}, T0) for n in range(200)))

    assert [found["whole"] for found in asyncio.run(ask())] == [[n] for n in range(200)]


def test_the_event_loop_of_serves_replicas_reads_too(redis: Any) -> None:
    """Its transports are of no class of asyncio's."""
    uvloop = pytest.importorskip("uvloop")
    view = typed_view.view(ttl_s=None)
    writer, reader = _opened(redis, view)
    writer.write(view, typed_view.frame(("a", T0, 1.0, 1, "x")))

    assert uvloop.run(reader.fetch({"id": ["a"]}, None))["text"] == ["x"]


def test_a_server_that_comes_back_is_read_again(redis: Any) -> None:
    """The first call after the loss says so; the next ones connect."""
    view = typed_view.view()
    writer, reader = _opened(redis, view)
    writer.write(view, typed_view.frame(("a", T0, 1.0, 1, "")))
    assert reader.read({"id": ["a"]}, T0)["whole"] == [1]
    redis.kill()

    for read in (reader.read, reader.read):
        with pytest.raises(
            Unavailable, match=f"online store redis://127[.]0[.]0[.]1:{redis.port}/0"
        ):
            read({"id": ["a"]}, T0)
    with pytest.raises(Unavailable):
        writer.write(view, typed_view.frame(("a", T0, 1.0, 1, "")))
    redis.start()

    assert reader.read({"id": ["a"]}, T0)["whole"] == [None]
    assert writer.write(view, typed_view.frame(("a", T0, 3.0, 3, ""))) == 1
    assert reader.read({"id": ["a"]}, T0)["whole"] == [3]


def test_a_lost_connection_is_told_to_all_who_wait_in_the_loop(redis: Any) -> None:
    """And after `drop` the next one connects anew."""
    view = typed_view.view()
    writer, reader = _opened(redis, view)
    writer.write(view, typed_view.frame(("a", T0, 1.0, 1, "")))

    async def story() -> tuple[list[Any], Any]:
        await reader.fetch({"id": ["a"]}, T0)
        redis.hang()
        asked = [asyncio.ensure_future(reader.fetch({"id": ["a"]}, T0)) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        reader.drop()
        lost = await asyncio.gather(*asked, return_exceptions=True)
        redis.go_on()
        return lost, await reader.fetch({"id": ["a"]}, T0)

    lost, found = asyncio.run(story())

    assert [type(item) for item in lost] == [Unavailable] * 3
    assert found["whole"] == [1]


def test_a_key_that_something_else_wrote_is_an_error(redis: Any) -> None:
    """Not a value that looks like one."""
    view = typed_view.view(features=(Feature(name="real", dtype="float64"),))
    writer, reader = _opened(redis, view)
    writer.write(view, typed_view.frame(("a", T0, 0.5, 1, "")).drop("whole", "text"))
    key = PackedView.of("p", view).key_encoder()(["a"])
    writer._connection.call([(b"SET", key, b"poison")])

    for rows in (1, 40):
        with pytest.raises(HeliostatError, match="online record of 6 bytes: is not of the view"):
            reader.read({"id": ["a"] * rows}, T0)


def test_what_was_materialized_is_recorded_beside_the_values(redis: Any) -> None:
    """In the order in which it happened."""
    writer, _ = _opened(redis, typed_view.view())
    writer.record("one")
    writer.record("ü")

    assert writer.recorded() == ["one", "ü"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [("http://h", "http://h"), ("redis://", "redis://"), ("redis://u:secret@h/x", "redis://...@h")],
)
def test_a_wrong_url_is_refused_without_its_password(url: str, shown: str) -> None:
    """It may stand in a log."""
    with pytest.raises(ConfigError) as caught:
        RedisAddress.parse(url)

    assert str(caught.value).startswith(f"redis URL = {shown!r}: must ")


def test_a_password_and_a_database_are_used(redis: Any) -> None:
    """As the URL says; a wrong one is told."""
    view = typed_view.view()
    writer, _ = _opened(redis, view)
    writer._connection.call([(b"CONFIG", b"SET", b"requirepass", b"s3/cret")])
    url = f"redis://:s3%2Fcret@127.0.0.1:{redis.port}/3"
    known = RedisWriter(RedisAddress.parse(url), "p")
    known.write(view, typed_view.frame(("a", T0, 1.0, 1, "")))

    async def ask() -> Any:
        return await RedisReader(RedisAddress.parse(url), [PackedView.of("p", view)]).fetch(
            {"id": ["a"]}, T0
        )

    assert asyncio.run(ask())["whole"] == [1]
    with pytest.raises(Unavailable, match=r"NOAUTH|WRONGPASS"):
        _opened(redis, view)[1].read({"id": ["a"]}, T0)


def test_a_cleared_view_takes_earlier_values_again(redis: Any) -> None:
    """In our layout and in Feast's; another view of the same entities stays."""
    view, other = typed_view.view(ttl_s=None), typed_view.view(ttl_s=None, name="other")
    writer, reader = _opened(redis, view)
    for each in (view, other):
        writer.write(each, typed_view.frame(*[(f"e{n}", T0, 1.0, 1, "new") for n in range(1_500)]))

    writer.clear([view])

    keys = {"id": ["e0", "e1499"]}
    assert reader.read(keys, None)["text"] == [None, None]
    assert _opened(redis, other)[1].read(keys, None)["text"] == ["new", "new"]
    writer.write(view, typed_view.frame(("e0", T0 - 9 * MICRO, 0.5, 2, "old")))
    assert reader.read(keys, None)["text"] == ["old", None]
    (before,) = stored("p", view, typed_view.frame(("e0", T0 - 9 * MICRO, 0.5, 2, "old")))
    names, time_name = feast_fields(view)
    asked = (b"HMGET", before.entities[0] + b"p", *names, time_name)
    values = [messages[0] for messages in (*before.messages, before.times)]
    assert writer._connection.call([asked]) == [values]


def test_the_environment_names_the_store_and_its_password_apart() -> None:
    """So that what is rendered holds no secret."""
    named = {"HELIOSTAT_ONLINE_STORE": "redis://r:6379/0"}

    assert stores.of_environment({"HELIOSTAT_REDIS_PASSWORD": "x"}) == "file"
    assert stores.of_environment(named) == "redis://r:6379/0"
    found = stores.of_environment({**named, "HELIOSTAT_REDIS_PASSWORD": "p@ss/:w"})
    assert RedisAddress.parse(found) == RedisAddress(host="r", password="p@ss/:w")
    with pytest.raises(ConfigError, match="must hold no password where"):
        stores.of_environment(
            {"HELIOSTAT_ONLINE_STORE": "redis://:a@r", "HELIOSTAT_REDIS_PASSWORD": "b"}
        )


def test_a_batch_that_is_refused_leaves_no_reply_to_the_next_call(redis: Any) -> None:
    """Others were sent behind it; what they are answered belongs to nobody."""
    connection = RedisConnection(RedisAddress.parse(redis.url), timeout_s=5.0)
    echoes = [[(b"ECHO", b"one")], [(b"ECHO", b"two")]]
    batches = [[(b"SET", b"k", b"1")], [(b"ECHO", b"x"), (b"LPUSH", b"k", b"x")], *echoes]

    with pytest.raises(Unavailable, match="WRONGTYPE"):
        list(connection.stream(batches))

    assert connection.call([(b"ECHO", b"mine")]) == [b"mine"]
    assert list(connection.stream(echoes)) == [[b"one"], [b"two"]]
