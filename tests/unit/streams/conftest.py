"""A Redis server for the tests of streams, one for each test: some kill it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from heliostat.testing import brokers
from heliostat.testing.redis import RedisServer, is_installed


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server on loopback, ended with the test."""
    if not is_installed():
        pytest.skip("Redis is not installed: apt-get install redis-server")
    server = RedisServer(tmp_path, keeps_data=True)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def kafka() -> Iterator[str]:
    """Address of a mock cluster."""
    pytest.importorskip(
        "confluent_kafka", reason="Kafka needs its client: pip install heliostat[sources]"
    )
    with brokers.kafka_cluster() as servers:
        yield servers
