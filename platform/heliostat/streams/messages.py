"""What streams need of a broker: numbered messages in partitions that can be read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Messages:
    """Some messages of one partition, in its order; the lists are of one length."""

    partition: str

    offsets: Sequence[int]
    """Rising; there may be gaps."""

    arrived_us: Sequence[int]
    """When each came to the broker by the broker's clock, or to us where that does not say."""

    values: Sequence[bytes]


class Reader(Protocol):
    """Reads some partitions of a log from given offsets on. Not safe in several threads."""

    def poll(self, max_messages: int, timeout_s: float) -> list[Messages]:
        """Wait for messages until some are there or the time is over.

        Raises:
            Unavailable: The broker or the topic is away; reading can go on when it is back.
            ConfigError: Messages that were not read yet are gone.
        """

    def behind(self) -> Mapping[str, int]:
        """Messages of each partition that were not handed out yet; what is not known is absent."""

    def close(self) -> None:
        """Let go of the broker."""


class Writer(Protocol):
    """Appends messages to a log."""

    def send(self, messages: Sequence[tuple[bytes, bytes]]) -> None:
        """Append (key, value) messages, each to the partition of its key; returns when all are in.

        Raises:
            Unavailable: Some may be in and some not.
        """

    def close(self) -> None:
        """Let go of the broker."""


class Log(Protocol):
    """A partitioned topic. Plain to pickle; building it connects to nothing."""

    @property
    def topic(self) -> str:
        """Name of the topic."""

    def partitions(self) -> tuple[str, ...]:
        """Names of the partitions, in order.

        Raises:
            ConfigError: There is no such topic.
            Unavailable: The broker does not answer.
        """

    def open(self, starts: Mapping[str, int | None], read: Mapping[str, int]) -> Reader:
        """Open a reader.

        Args:
            starts: First offset of each partition to read; None begins with the oldest message.
            read: How many messages of each partition were read before its start.
        """

    def writer(self) -> Writer:
        """Open a writer."""
