"""A Kafka cluster for tests: librdkafka's own mock, which speaks the protocol."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def kafka_cluster() -> Iterator[str]:
    """Run librdkafka's mock cluster in this process; gives the address it listens on.

    It speaks Kafka's protocol on loopback, keeps the newest 5 MiB of each partition in memory, and
    makes a topic of 4 partitions when it is first written to.
    """
    from confluent_kafka import Producer

    lines: list[str] = []

    class Capture(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger = logging.getLogger("heliostat-testing-kafka")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    handler = Capture()
    logger.addHandler(handler)
    # The cluster lives in this producer; its log says where.
    try:
        owner = Producer(
            {"test.mock.num.brokers": 1, "debug": "mock", "bootstrap.servers": "ignored"},
            logger=logger,
        )
        found: list[str] = []
        for _ in range(200):
            owner.poll(0.05)
            found = [match for line in lines for match in re.findall(r"127\.0\.0\.1:\d+", line)]
            if found:
                break
        if not found:
            raise OSError(f"the mock cluster did not say where it is: {lines}")
        yield found[0]
        del owner
    finally:
        logger.removeHandler(handler)
