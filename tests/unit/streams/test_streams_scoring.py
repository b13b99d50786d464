"""Events answered under the rollout policy: who answers, what falls back, what is produced."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import polars as pl
import pytest

from heliostat.data.tables import Catalog
from heliostat.errors import Unavailable
from heliostat.features.online import OnlineWriter
from heliostat.registry import signing
from heliostat.registry.package import (
    FeatureServiceReference,
    FeatureViewReference,
    ModelInput,
    OnDemandReference,
)
from heliostat.rollout.policy import ModelPolicy, Policy, Variant
from heliostat.stats.slots import assign, slot
from heliostat.streams.consumer import Consumer
from heliostat.streams.online import SqliteOnline
from heliostat.streams.recipe import Scoring
from heliostat.streams.redis_log import RedisLog
from heliostat.streams.scoring import Models, Scorer
from heliostat.testing.packages import write_package
from tests.unit.streams import orders

ALL = ("0", "1", "2", "3")


class Fixed:
    """A policy that a test holds in its hand."""

    def __init__(self) -> None:
        self.policy: Policy | None = None

    def newest(self) -> Policy | None:
        return self.policy


class World:
    """Two versions of a model, a stream that they answer, and a topic of answers."""

    def __init__(self, server, folder, **candidate) -> None:
        self.folder = folder
        self.log = RedisLog(url=server.url, topic="orders")
        self.answers = RedisLog(url=server.url, topic="answers", num_partitions=1)
        self.recipe = orders.recipe(
            self.log,
            scoring=Scoring(
                model="churn", unit="customer", into="answers", keep=("number",),
                output=self.answers,
            ),
        )  # fmt: skip
        self.catalog = Catalog(folder / "tables")
        self.policies = Fixed()
        self.package("1", bias=0.0)
        self.package("2", bias=1.0, **candidate)
        self.publish(1, 0.5)

    def package(self, version: str, **more) -> None:
        inputs = (ModelInput(name="amount", kind="numeric"),)
        write_package(
            self.folder / version, model="churn", keys_dir=self.folder / "keys",
            **{"inputs": inputs, **more},
        )  # fmt: skip

    def publish(self, epoch: int, share: float) -> None:
        variants = tuple(
            Variant(
                version=version, role=role, placement="in_process",
                package_path=str(self.folder / version),
                package_digest=signing.verify(self.folder / version, self.folder / "keys"),
            )
            for version, role in (("1", "stable"), ("2", "candidate"))
        )  # fmt: skip
        slots = assign(None, [1 - share, share])
        model = ModelPolicy(model="churn", variants=variants, slots=slots)
        self.policies.policy = Policy(epoch=epoch, models={"churn": model})

    def consumer(self) -> Consumer:
        models = Models(keys_dir=self.folder / "keys", online_db=self.folder / "online.db")
        scorer = Scorer(self.recipe, self.catalog, models, self.policies)
        online = SqliteOnline(path=self.folder / "online.db", project="shop")
        return Consumer(self.recipe, self.catalog, name="c", online=online, scorer=scorer)

    def drain(self, consumer, count: int) -> None:
        for _ in range(100):
            if consumer.work(ALL, 0.1).messages >= count:
                consumer._commit()
                return
        raise AssertionError

    def answered(self) -> pl.DataFrame:
        return self.catalog.read("answers").sort("number")

    def produced(self) -> list[dict]:
        stream = self.answers.stream("0").encode()
        (entries,) = self.answers.connect().call([(b"XRANGE", stream, b"-", b"+")])
        return [json.loads(value) for _, (_, value) in entries]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_each_event_is_answered_once_by_the_version_of_its_units_slot(redis_server, tmp_path):
    """The same split as the gateways', the new one from the next epoch on; all is produced."""
    world = World(redis_server, tmp_path)
    world.log.writer().send(orders.messages(200))
    world.drain(first := world.consumer(), 200)
    first.close()
    world.publish(2, 1.0)
    world.log.writer().send(orders.messages(100, begin=200))
    world.drain(second := world.consumer(), 100)
    second.close()
    policy = world.policies.policy
    assert policy is not None
    half = assign(None, [0.5, 0.5])

    rows = world.answered().to_dicts()

    assert [row["number"] for row in rows] == list(range(300))
    for row in rows:
        candidate = row["epoch"] == 2 or half[slot(row["customer"], "churn")] == 1
        amount = (row["number"] % 1000) / 100
        assert row["version"] == ("2" if candidate else "1")
        assert row["score"] == pytest.approx(sigmoid(amount + candidate), rel=1e-5)
        assert (row["fallback"], row["problem"]) == (False, None)
    assert {row["variant"] for row in rows if row["epoch"] == 1} == {"stable", "candidate"}
    assert sorted(item["number"] for item in world.produced()) == list(range(300))


def test_a_version_that_fails_is_replaced_by_the_stable_one_and_the_answer_says_so(
    redis_server, tmp_path
):
    """Scores that are no number are failures; every event is answered."""
    world = World(redis_server, tmp_path, fails_above=1.0)
    world.publish(1, 1.0)
    world.log.writer().send(orders.messages(200))
    world.drain(world.consumer(), 200)

    rows = world.answered()
    fell = rows.filter(pl.col("number") > 100)

    assert rows.height == 200
    assert fell["fallback"].all()
    assert set(fell["version"]) == {"1"}
    assert set(fell["problem"]) == {"version 2: the score is no number"}
    assert not rows.filter(pl.col("number") <= 100)["fallback"].any()


def test_without_a_policy_events_wait_and_none_is_lost(redis_server, tmp_path):
    """Nobody may say who answers: the consumer tells it and reads no more than it may hold."""
    world = World(redis_server, tmp_path)
    policy, world.policies.policy = world.policies.policy, None
    world.log.writer().send(orders.messages(50))
    consumer = world.consumer()
    for _ in range(50):
        problem = consumer.work(ALL, 0.1).problem
        if problem:
            break
    world.policies.policy = policy
    world.drain(consumer, 50)
    consumer.close()

    assert "no rollout policy names who answers" in str(problem)
    assert world.answered()["number"].to_list() == list(range(50))


class Gauges:
    """A sink that remembers what gauges were set to last."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, ...], float] = {}

    def set(self, metric, labels, value) -> None:
        self.found[metric.name, *labels] = value

    def add(self, metric, labels, value) -> None: ...

    def observe(self, metric, labels, value) -> None: ...


def test_what_cannot_be_committed_stays_with_the_broker_and_counts_as_lag(redis_server, tmp_path):
    """A consumer holds so many rows and one batch more, whatever waits; then all of it arrives."""
    world = World(redis_server, tmp_path)
    world.recipe = replace(world.recipe, commit_rows=300, max_batch_messages=100)
    policy, world.policies.policy = world.policies.policy, None
    world.log.writer().send(orders.messages(2_000))
    consumer, sink = world.consumer(), Gauges()
    for _ in range(100):
        found = consumer.work(ALL, 0.05)
        if found.messages >= 300 and found.problem:
            break
    held = [consumer.work(ALL, 0.05).messages for _ in range(5)]
    consumer.meter.drain(sink)
    waiting = {name: number for name, number in sink.found.items() if "behind" in name[0]}
    world.policies.policy = policy
    world.drain(consumer, 2_000)
    consumer.work(ALL, 0.05)
    consumer.meter.drain(sink)
    consumer.close()

    assert len(set(held)) == 1
    assert 300 <= held[0] < 400
    assert sorted(waiting) == [("heliostat_stream_behind", "orders", name) for name in ALL]
    assert sum(waiting.values()) == 2_000 - held[0]
    assert sum(sink.found[name] for name in waiting) == 0
    assert world.answered()["number"].to_list() == list(range(2_000))


def test_answers_that_a_killed_consumer_did_not_send_are_sent_by_the_next(redis_server, tmp_path):
    """From the table, so that they are the same answers; a doubled one has the same source."""
    world = World(redis_server, tmp_path)
    world.log.writer().send(orders.messages(50))
    world.drain(world.consumer(), 50)  # and dies, before it notes what it has sent
    world.answers.connect().call([(b"DEL", world.answers.stream("0").encode())])
    world.publish(2, 1.0)
    world.log.writer().send(orders.messages(50, begin=50))
    world.drain(world.consumer(), 50)
    produced = world.produced()

    sources = {item["source"] for item in produced}
    assert len(sources) == 100
    by_number = {row["number"]: row for row in world.answered().to_dicts()}
    for item in produced:
        assert item["version"] == by_number[item["number"]]["version"]


def test_inputs_that_events_lack_are_read_from_the_online_store(redis_server, tmp_path):
    """By the event's keys, as the gateway does."""
    world = World(redis_server, tmp_path)
    view = FeatureViewReference(
        name="activity", keys=("customer",), features=("count_1d",), ttl_s=None
    )
    reference = FeatureServiceReference(
        project="other", name="s", digest="d", views=(view,)
    )  # fmt: skip
    inputs = tuple(ModelInput(name=name, kind="numeric") for name in ("amount", "count_1d"))
    world.package("1", inputs=inputs, features=reference, weights=(0.0, 1.0))
    world.publish(1, 0.0)
    writer = OnlineWriter(tmp_path / "online.db", "other")
    frame = orders.history(
        pl.DataFrame(
            {"customer": ["c0", "c0", "c7"], "at": [orders.datetime.now(orders.UTC)] * 3,
             "amount": [1.0] * 3}
        ), orders.WHAT,
    )  # fmt: skip
    writer.write(orders.VIEW, frame.filter(pl.col("count_1d") > 0))
    world.log.writer().send(orders.messages(20))
    world.drain(world.consumer(), 20)

    scores = dict(world.answered().select("customer", "score").iter_rows())

    assert scores["c0"] == pytest.approx(sigmoid(2.0), rel=1e-5)
    assert scores["c7"] == pytest.approx(sigmoid(1.0), rel=1e-5)


def test_on_demand_features_are_computed_from_the_event_and_the_store(redis_server, tmp_path):
    """By the text in the package, as a gateway does."""
    world = World(redis_server, tmp_path)
    view = FeatureViewReference(
        name="activity", keys=("customer",), features=("count_1d",), ttl_s=None
    )
    per = OnDemandReference(
        name="per", inputs=(("count_1d", "float64"), ("amount", "float64")),
        requested=("amount",), features=(("share", "float64"),), version="o",
        source="def f(row):\n return {'share': row['count_1d'] and row['amount'] / row['count_1d']}",
    )  # fmt: skip
    reference = FeatureServiceReference(
        project="other", name="s", digest="d", views=(view,), on_demand=(per,)
    )
    inputs = (ModelInput(name="share", kind="numeric"),)
    world.package("1", inputs=inputs, features=reference, weights=(1.0,))
    world.publish(1, 0.0)
    writer = OnlineWriter(tmp_path / "online.db", "other")
    frame = orders.history(
        pl.DataFrame(
            {"customer": ["c0", "c0"], "at": [orders.datetime.now(orders.UTC)] * 2,
             "amount": [1.0] * 2}
        ), orders.WHAT,
    )  # fmt: skip
    writer.write(orders.VIEW, frame.filter(pl.col("count_1d") > 0))
    world.log.writer().send(
        [orders.message(0, orders.datetime.now(orders.UTC), amount=3.0, customer="c0")]
    )
    world.drain(world.consumer(), 1)

    assert world.answered()["score"].to_list() == [pytest.approx(sigmoid(1.5), rel=1e-5)]


def test_a_policy_that_does_not_know_the_model_is_no_policy(redis_server, tmp_path):
    """It names the model and the next step."""
    world = World(redis_server, tmp_path)
    world.policies.policy = Policy(epoch=3, models={})
    models = Models(keys_dir=tmp_path / "keys")
    scorer = Scorer(world.recipe, world.catalog, models, world.policies)

    with pytest.raises(Unavailable, match="model churn: no rollout policy names who answers"):
        scorer.score(pl.DataFrame(schema=world.recipe.schema()))
