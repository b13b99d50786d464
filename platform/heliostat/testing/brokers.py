"""Real brokers for tests: a Redis server of its own, and librdkafka's mock of a Kafka cluster."""

from __future__ import annotations

import logging
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from heliostat.testing.ports import free_ports


class RedisServer:
    """A Redis server on loopback that can be killed, hung and started again with its data."""

    def __init__(self, folder: Path) -> None:
        """Choose a port; nothing runs yet."""
        self.folder = folder
        (self.port,) = free_ports(1)
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """As clients take it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start, and return once it has loaded its data."""
        self._child = subprocess.Popen(
            [
                "redis-server", "--port", str(self.port), "--bind", "127.0.0.1",
                "--dir", str(self.folder), "--save", "", "--appendonly", "yes",
                "--appendfsync", "no", "--logfile", str(self.folder / "redis.log"),
            ]
        )  # fmt: skip
        for _ in range(600):
            if self._pings():
                return
            time.sleep(0.05)
        raise OSError(f"redis does not answer: {(self.folder / 'redis.log').read_text()}")

    def kill(self) -> None:
        """End it at once, as a crash does; what it had written stays."""
        self._signal(signal.SIGKILL)
        assert self._child is not None
        self._child.wait(10)

    def hang(self) -> None:
        """Let it answer no more, with its connections open."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `hang`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._child is not None
        self._child.send_signal(number)

    def _pings(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(100).startswith(b"+PONG")
        except OSError:
            return False


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """Run a Redis server that keeps its data in the folder, until the block ends."""
    server = RedisServer(folder)
    server.start()
    try:
        yield server
    finally:
        if server._child is not None and server._child.poll() is None:
            server.resume()
            server.kill()


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
