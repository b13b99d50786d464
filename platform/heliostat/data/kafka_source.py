"""A Kafka topic as a source: everything up to now, and next time only what came since."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from heliostat.config import require
from heliostat.data import kafka_settings, typed_rows
from heliostat.data.kafka_settings import Errors
from heliostat.data.rows import Member
from heliostat.data.typed_rows import JsonRows
from heliostat.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from confluent_kafka import Consumer


@dataclass(frozen=True, kw_only=True)
class KafkaTopic:
    """Messages of a topic, one JSON object each.

    Each partition is read from `start`, or from its beginning, to where it ended when the read
    was planned. The ends are kept with the commit, so that ``KafkaTopic(start=...)`` of
    `after` goes on exactly there: offsets and rows become visible in one commit, and no broker
    needs to remember a consumer group. Users, passwords and certificates are where
    `kafka_settings.read` looks, never in the recipe.
    """

    servers: str
    """``host:port``, several with commas."""

    topic: str

    start: Mapping[str, int] = field(default_factory=dict)
    """First offset by partition, as ``{"0": 17}``; others begin at their oldest message."""

    chunk_messages: int = 20_000

    timeout_s: float = 10.0
    """How long the broker may be silent."""

    def __post_init__(self) -> None:
        require(bool(self.topic), "source.topic", self.topic, "must be named")
        require(
            self.chunk_messages > 0, "source.chunk_messages", self.chunk_messages, "must be above 0"
        )

    @property
    def paths(self) -> tuple[str, ...]:
        """None: rows come from a server."""
        return ()

    @property
    def repeatable(self) -> bool:
        """Offsets name messages for good."""
        return True

    def position(self, members: list[Member]) -> dict[str, int]:
        """Offsets after the last that is read, by partition."""
        return {str(member.member): member.size_bytes for member in members}

    def plan(self) -> list[Member]:
        """Ask where each partition begins and ends.

        Raises:
            ConfigError: The topic does not exist, or the client does not take its settings.
            Unavailable: No broker answers, or it refuses the user.
        """
        from confluent_kafka import TopicPartition

        errors: Errors = []
        consumer = self._consumer(errors)

        def ask(question: Callable[[], Any]) -> Any:
            return kafka_settings.asked(f"kafka {self.servers}", consumer, errors, question)

        try:
            found = ask(lambda: consumer.list_topics(self.topic, timeout=self.timeout_s))
            topic = found.topics.get(self.topic)
            if topic is None or topic.error is not None or not topic.partitions:
                raise ConfigError("source.topic", self.topic, "must exist on the brokers")
            members = []
            for number in sorted(topic.partitions):
                place = TopicPartition(self.topic, number)
                low, high = ask(
                    partial(consumer.get_watermark_offsets, place, timeout=self.timeout_s)
                )
                begin = max(low, self.start.get(str(number), low))
                lost = low - self.start.get(str(number), low)
                if lost > 0:
                    raise ConfigError(
                        f"source.start.{number}", self.start[str(number)],
                        "must still be in the topic",
                        breaks=f"its oldest message is {low}: {lost} messages are gone",
                    )  # fmt: skip
                members.append(
                    Member(
                        path=f"kafka:{self.topic}", member=str(number), header=None,
                        body_start=begin, size_bytes=high, first_line=begin,
                    )
                )  # fmt: skip
            return members
        finally:
            consumer.close()

    def readers(self, member: Member) -> range:
        """One per chunk of offsets."""
        length = member.size_bytes - member.body_start
        return range(max(1, -(-length // self.chunk_messages)))

    def one_chunk_each(self, member: Member) -> bool:  # noqa: ARG002 - partitions are alike
        """A range of offsets is a reader."""
        return True

    def read_chunks(self, member: Member, first: int) -> Iterator[tuple[int, bytes]]:
        """Yield a range of offsets as JSON lines; an offset without message is an empty line.

        Raises:
            Unavailable: The broker goes silent, or the topic vanishes.
        """
        from confluent_kafka import TopicPartition

        start = member.body_start + first * self.chunk_messages
        end = min(start + self.chunk_messages, member.size_bytes)
        lines = [b""] * max(0, end - start)
        if lines:
            errors: Errors = []
            consumer = self._consumer(errors)
            try:
                consumer.assign([TopicPartition(self.topic, int(str(member.member)), start)])
                self._fill(consumer, errors, lines, start, end)
            finally:
                consumer.close()
        yield first, b"".join(line + b"\n" for line in lines)

    def read_chunk(self, member: Member, number: int) -> bytes:
        """Read the same offsets again."""
        return next(raw for _, raw in self.read_chunks(member, number))

    def parse(self, raw: bytes, member: Member) -> JsonRows:  # noqa: ARG002 - objects say it
        """Take messages apart."""
        return typed_rows.parse_json(raw, ())

    def _fill(
        self, consumer: Consumer, errors: Errors, lines: list[bytes], start: int, end: int
    ) -> None:
        from confluent_kafka import KafkaError

        quiet_at = time.monotonic() + self.timeout_s
        while True:
            messages = consumer.consume(num_messages=1_000, timeout=0.2)
            for message in messages:
                error = message.error()
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    # Transactions leave offsets without a message, so the last one may be none.
                    if int(message.offset() or 0) >= end:
                        return
                    raise Unavailable(
                        f"kafka {self.servers}",
                        f"topic {self.topic} ends at {message.offset()}, and ended at {end} when "
                        "the read was planned: it was deleted or made anew",
                    )
                if error is not None:
                    where = f"kafka {self.servers}"
                    raise kafka_settings.unavailable(where, errors, str(error.str()))
                offset = int(message.offset() or 0)
                if offset >= end:
                    return
                # One line per message, so that a row's line is its offset.
                lines[offset - start] = (message.value() or b"").replace(b"\n", b" ")
                quiet_at = time.monotonic() + self.timeout_s
                if offset == end - 1:
                    return
            if time.monotonic() > quiet_at:
                silent = (
                    f"topic {self.topic} gave no message for {self.timeout_s:g} s before its end"
                )
                raise Unavailable(
                    f"kafka {self.servers}",
                    kafka_settings.problem(errors, silent, kafka_settings.read(os.environ)),
                    next_step="Repeat the ingest when the topic answers: nothing is lost",
                )

    def _consumer(self, errors: Errors) -> Consumer:
        from confluent_kafka import Consumer

        return kafka_settings.opened(
            Consumer,
            {
                "bootstrap.servers": self.servers,
                "group.id": "heliostat",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "allow.auto.create.topics": False,
            },
            errors,
            os.environ,
        )
