"""A Redis server for the tests of streams, one for each test: some kill it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from heliostat.testing import brokers


@pytest.fixture
def redis_server() -> Iterator[brokers.RedisServer]:
    """A server on loopback, ended with the test."""
    pytest.importorskip("redis", reason="Redis needs its client: pip install heliostat[sources]")
    if shutil.which("redis-server") is None:
        pytest.skip("Redis is not installed: apt-get install redis-server")
    folder = Path(tempfile.mkdtemp(prefix="redis-"))
    with brokers.redis_server(folder) as server:
        yield server


@pytest.fixture(scope="module")
def kafka() -> Iterator[str]:
    """Address of a mock cluster."""
    pytest.importorskip(
        "confluent_kafka", reason="Kafka needs its client: pip install heliostat[sources]"
    )
    with brokers.kafka_cluster() as servers:
        yield servers
