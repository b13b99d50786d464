"""A Kafka topic as a log: partitions are assigned by us, offsets are kept in the table."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from heliostat.config import require
from heliostat.data import kafka_settings
from heliostat.data.kafka_settings import Errors
from heliostat.errors import ConfigError, Unavailable
from heliostat.streams.messages import Messages

if TYPE_CHECKING:
    from confluent_kafka import Consumer, Message

_GONE = "its messages were deleted before they were read, or it was made anew"


@dataclass(frozen=True, kw_only=True, slots=True)
class KafkaLog:
    """A topic of Kafka; its messages must be keyed by what aggregates are keyed by.

    Users, passwords and certificates are where `kafka_settings.read` looks, never in the recipe.
    """

    servers: str
    """``host:port``, several with commas."""

    topic: str

    timeout_s: float = 10.0
    """How long the brokers may be silent when they are asked."""

    def __post_init__(self) -> None:
        require(bool(self.topic), "log.topic", self.topic, "must be named")
        require(self.timeout_s > 0, "log.timeout_s", self.timeout_s, "must be above 0")

    def partitions(self) -> tuple[str, ...]:
        """Ask the brokers; see `messages.Log`."""
        errors: Errors = []
        consumer = self._consumer(errors)
        try:
            return tuple(str(number) for number in self._numbers(consumer, errors))
        finally:
            consumer.close()

    def open(self, starts: Mapping[str, int | None], read: Mapping[str, int]) -> _KafkaReader:  # noqa: ARG002
        """See `messages.Log`; offsets count messages themselves."""
        from confluent_kafka import OFFSET_BEGINNING, TopicPartition

        errors: Errors = []
        consumer = self._consumer(errors)
        try:
            known = self._numbers(consumer, errors)
            places = []
            begins: dict[str, int] = {}
            ends: dict[str, int] = {}
            for name, start in starts.items():
                number = int(name)
                if number not in known:
                    raise Unavailable(self._name, f"partition {name} is gone")
                low, high = kafka_settings.asked(
                    self._name, consumer, errors,
                    partial(
                        consumer.get_watermark_offsets, TopicPartition(self.topic, number),
                        timeout=self.timeout_s,
                    ),
                )  # fmt: skip
                if start is not None and not low <= start <= high:
                    raise ConfigError(
                        f"{self._name} partition {name}", start,
                        "must be an offset that the topic still has", breaks=f"{_GONE}: it has "
                        f"{low} to {high}",
                        next_step="Nothing was skipped. To go on with what is there, start a "
                        "stream of another name",
                    )  # fmt: skip
                begins[name] = low if start is None else start
                ends[name] = high
                places.append(
                    TopicPartition(self.topic, number, OFFSET_BEGINNING if start is None else start)
                )
            consumer.assign(places)
        except BaseException:
            consumer.close()
            raise
        return _KafkaReader(self, consumer, begins, ends, errors)

    def writer(self) -> _KafkaWriter:
        """See `messages.Log`."""
        return _KafkaWriter(self)

    @property
    def _name(self) -> str:
        return f"kafka {self.servers} topic {self.topic}"

    def _numbers(self, consumer: Consumer, errors: Errors) -> list[int]:
        found = kafka_settings.asked(
            self._name, consumer, errors,
            lambda: consumer.list_topics(self.topic, timeout=self.timeout_s),
        )  # fmt: skip
        topic = found.topics.get(self.topic)
        if topic is None or topic.error is not None or not topic.partitions:
            raise ConfigError("log.topic", self.topic, "must exist on the brokers")
        return sorted(topic.partitions)

    def _consumer(self, errors: Errors) -> Consumer:
        from confluent_kafka import Consumer

        return kafka_settings.opened(
            Consumer,
            {
                "bootstrap.servers": self.servers,
                "group.id": "heliostat",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "allow.auto.create.topics": False,
                # What is fetched ahead is memory: beyond it the broker waits for us.
                "queued.max.messages.kbytes": 16_384,
                "fetch.wait.max.ms": 50,
            },
            errors,
            os.environ,
        )


class _KafkaReader:
    def __init__(
        self,
        log: KafkaLog,
        consumer: Consumer,
        nexts: dict[str, int],
        ends: dict[str, int],
        errors: Errors,
    ) -> None:
        self._log = log
        self._consumer = consumer
        self._next = nexts
        self._ends = ends
        self._errors = errors
        self._never_back_us = 0

    def poll(self, max_messages: int, timeout_s: float) -> list[Messages]:
        """See `messages.Reader`."""
        self._errors.clear()
        found = self._consumer.consume(num_messages=max_messages, timeout=timeout_s)
        if not found and self._errors:
            raise kafka_settings.unavailable(self._log._name, self._errors, self._errors[0][1])
        # Our own clock may be set back; time that has passed has passed.
        self._never_back_us = now_us = max(self._never_back_us, time.time_ns() // 1000)
        parts: dict[int, list[Message]] = defaultdict(list)
        for message in found:
            error = message.error()
            if error is not None:
                self._refuse(error, message)
            parts[message.partition() or 0].append(message)
        made = []
        for number, messages in parts.items():
            offsets = [int(message.offset() or 0) for message in messages]
            self._next[str(number)] = offsets[-1] + 1
            made.append(
                Messages(
                    partition=str(number),
                    offsets=offsets,
                    arrived_us=[_arrived_us(message, now_us) for message in messages],
                    values=[message.value() or b"" for message in messages],
                )
            )
        return made

    def _refuse(self, error: Any, message: Message) -> None:
        from confluent_kafka import KafkaError

        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise ConfigError(
                f"{self._log._name} partition {message.partition()}", message.offset(),
                "must be an offset that the topic still has", breaks=_GONE,
            )  # fmt: skip
        raise Unavailable(
            self._log._name, str(error.str()),
            next_step="Nothing is lost: the stream goes on where the table stands",
        )  # fmt: skip

    def behind(self) -> Mapping[str, int]:
        """See `messages.Reader`; from what the last fetch said, so it asks nobody."""
        from confluent_kafka import TopicPartition

        found = {}
        for name, offset in self._next.items():
            place = TopicPartition(self._log.topic, int(name))
            low, high = self._consumer.get_watermark_offsets(place, cached=True)
            # Before the first fetch the client says nothing; the brokers were asked just before.
            high = max(high, self._ends[name])
            found[name] = max(0, high - max(low, offset))
        return found

    def close(self) -> None:
        """See `messages.Reader`."""
        self._consumer.close()


class _KafkaWriter:
    def __init__(self, log: KafkaLog) -> None:
        from confluent_kafka import Producer

        self._log = log
        self._errors: Errors = []
        self._producer = kafka_settings.opened(
            Producer,
            {
                "bootstrap.servers": log.servers,
                "enable.idempotence": True,
                "linger.ms": 5,
                "delivery.timeout.ms": int(log.timeout_s * 1000),
            },
            self._errors,
            os.environ,
        )

    def send(self, messages: Sequence[tuple[bytes, bytes]]) -> None:
        """See `messages.Writer`."""
        failed: list[str] = []
        self._errors.clear()

        def told(error: Any, _: Any) -> None:
            if error is not None:
                failed.append(str(error.str()))

        for key, value in messages:
            while True:
                try:
                    self._producer.produce(self._log.topic, key=key, value=value, on_delivery=told)
                    break
                except BufferError:
                    self._producer.poll(0.1)
        left = self._producer.flush(self._log.timeout_s * 2)
        if failed or left:
            said = failed[0] if failed else f"{left} messages were not acknowledged"
            raise kafka_settings.unavailable(self._log._name, self._errors, said)

    def close(self) -> None:
        """See `messages.Writer`."""
        self._producer.flush(self._log.timeout_s)


def _arrived_us(message: Message, now_us: int) -> int:
    from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME

    kind, at_ms = message.timestamp()
    return at_ms * 1000 if kind == TIMESTAMP_LOG_APPEND_TIME else now_us
