"""Streams on Ray actors: small runs of what `make prove-streams` does at full size."""

from __future__ import annotations

import pytest

from heliostat.data.tables import Catalog
from heliostat.lineage.graph import Graph
from heliostat.pipeline.connection import Connection
from heliostat.pipeline.progress import Reporter
from heliostat.pipeline.stream import run
from heliostat.registry import signing
from heliostat.registry.package import ModelInput
from heliostat.rollout.policy import NUM_SLOTS, ModelPolicy, Policy, Variant
from heliostat.serving import plane
from heliostat.store.home import open_home
from heliostat.streams.kafka_log import KafkaLog
from heliostat.streams.online import SqliteOnline
from heliostat.streams.recipe import Scoring
from heliostat.streams.redis_log import RedisLog
from heliostat.testing import brokers
from heliostat.testing.packages import write_package
from heliostat.testing.redis import RedisServer, is_installed
from tests.local.stream_story import Story, play
from tests.unit.streams import orders


def assert_nothing_lost(found, story):
    """Every event once, every poisoned message once, aggregates equal to the batch's."""
    assert (found.lost, found.doubled, found.rows) == (0, 0, story.events)
    assert (found.dead, found.dead_doubled) == (found.poison, 0)
    assert (found.kills, found.resizes) == (story.kills, story.rebalances)
    assert (found.values_different, found.values_compared) == (0, 12 * story.customers)


def test_redis_events_are_each_in_the_table_once_whoever_is_killed(ray_session, tmp_path):
    """Consumers come, go and die by SIGKILL while events flow."""
    if not is_installed():
        pytest.skip("Redis is not installed: apt-get install redis-server")
    story = Story(events=20_000, rebalances=2, kills=2, customers=50, ahead=6_000)
    server = RedisServer(tmp_path)
    server.start()
    try:
        found = play(RedisLog(url=server.url, topic="orders"), tmp_path, story)
    finally:
        server.kill()

    assert_nothing_lost(found, story)


def test_kafka_events_are_each_in_the_table_once_whoever_is_killed(ray_session, tmp_path):
    """The same through Kafka's protocol and client."""
    pytest.importorskip(
        "confluent_kafka", reason="Kafka needs its client: pip install heliostat[sources]"
    )
    story = Story(events=10_000, rebalances=1, kills=1, customers=50, ahead=4_000)
    with brokers.kafka_cluster() as servers:
        found = play(KafkaLog(servers=servers, topic="orders"), tmp_path, story)

    assert_nothing_lost(found, story)


def test_the_job_answers_events_by_the_policy_of_the_plane(ray_session, tmp_path):
    """`jobs/stream.py` end to end: a signed model, the actor that gateways follow, a topic, tables."""
    if not is_installed():
        pytest.skip("Redis is not installed: apt-get install redis-server")
    home = open_home(tmp_path / "home")
    write_package(
        tmp_path / "1", model="churn", keys_dir=home.keys,
        inputs=(ModelInput(name="amount", kind="numeric"),),
    )  # fmt: skip
    digest = signing.verify(tmp_path / "1", home.keys)
    stable = Variant(
        version="1", role="stable", placement="in_process",
        package_path=str(tmp_path / "1"), package_digest=digest,
    )  # fmt: skip
    model = ModelPolicy(model="churn", variants=(stable,), slots=bytes(NUM_SLOTS))
    policy = Policy(epoch=7, models={"churn": model})
    actor = plane.connect()
    ray_session.get(actor.publish.remote(7, plane.encode(policy)))
    server = RedisServer(tmp_path)
    server.start()
    try:
        log = RedisLog(url=server.url, topic="orders")
        log.writer().send(orders.messages(3_000))
        scoring = Scoring(model="churn", unit="customer", into="answers", keep=("number",))
        connection = Connection(
            home=home, endpoint="", tracking_uri="", dashboard_url="", revision="r"
        )
        run(
            orders.recipe(log, scoring=scoring, num_consumers=1), connection, Reporter(),
            model="shop", until_idle_s=0.5,
        )  # fmt: skip
    finally:
        server.kill()
        ray_session.kill(actor)
    catalog = Catalog(home.tables / "shop")
    answers = catalog.read("answers")

    assert answers["number"].sort().to_list() == list(range(3_000))
    assert (set(answers["version"]), set(answers["epoch"])) == ({"1"}, {7})
    assert answers["score"].null_count() == 0
    online = SqliteOnline(path=home.online_db, project="shop")
    orders.assert_online_equals_batch(catalog, online, 20)
    told = Graph.read(home.root / "lineage" / "events.jsonl")
    made = f"table:shop/answers@{catalog.version('answers')}"
    assert [step.node for step in told.up([made])] == ["source:redis:orders@orders"]
