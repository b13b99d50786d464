"""Streams on Ray actors: small runs of what `make prove-streams` does at full size."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from heliostat.streams.kafka_log import KafkaLog
from heliostat.streams.redis_log import RedisLog
from heliostat.testing import brokers
from tests.local.stream_story import Story, play


def assert_nothing_lost(found, story):
    """Every event once, every poisoned message once, aggregates equal to the batch's."""
    assert (found.lost, found.doubled, found.rows) == (0, 0, story.events)
    assert (found.dead, found.dead_doubled) == (found.poison, 0)
    assert (found.kills, found.resizes) == (story.kills, story.rebalances)
    assert (found.values_different, found.values_compared) == (0, 12 * story.customers)


def test_redis_events_are_each_in_the_table_once_whoever_is_killed(ray_session, tmp_path):
    """Consumers come, go and die by SIGKILL while events flow."""
    pytest.importorskip("redis", reason="Redis needs its client: pip install heliostat[sources]")
    if shutil.which("redis-server") is None:
        pytest.skip("Redis is not installed: apt-get install redis-server")
    story = Story(events=20_000, rebalances=2, kills=1, customers=50)
    with brokers.redis_server(Path(tempfile.mkdtemp(prefix="redis-"))) as server:
        found = play(RedisLog(url=server.url, topic="orders"), tmp_path, story)

    assert_nothing_lost(found, story)


def test_kafka_events_are_each_in_the_table_once_whoever_is_killed(ray_session, tmp_path):
    """The same through Kafka's protocol and client."""
    pytest.importorskip(
        "confluent_kafka", reason="Kafka needs its client: pip install heliostat[sources]"
    )
    story = Story(events=10_000, rebalances=1, kills=1, customers=50)
    with brokers.kafka_cluster() as servers:
        found = play(KafkaLog(servers=servers, topic="orders"), tmp_path, story)

    assert_nothing_lost(found, story)
