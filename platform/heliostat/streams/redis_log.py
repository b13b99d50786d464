"""Redis Streams as a log: one stream per partition, entry ids as offsets."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from heliostat.config import require
from heliostat.errors import ConfigError, Unavailable
from heliostat.features.redis_client import RedisAddress, RedisConnection
from heliostat.streams.messages import Messages

_SEQUENCE_BITS = 20
"""An id is milliseconds and a number within them; together they fit into 63 bits, up to 2039 at
full width and a million entries per millisecond."""

_FIELD = b"value"

_ENTRIES_PER_CALL = 1_000


def offset_of(entry: bytes) -> int:
    """Turn an entry's id into a number that keeps the order.

    >>> offset_of(b"1700000000000-3"), id_of(offset_of(b"1700000000000-3"))
    (1782579200000000003, '1700000000000-3')
    """
    at_ms, _, number = entry.partition(b"-")
    require(
        int(number) < 1 << _SEQUENCE_BITS and int(at_ms) < 1 << (63 - _SEQUENCE_BITS),
        "redis entry id", entry.decode(), "must have a number below 2**20 in its millisecond",
    )  # fmt: skip
    return int(at_ms) << _SEQUENCE_BITS | int(number)


def id_of(offset: int) -> str:
    """Turn a number back into an entry's id."""
    return f"{offset >> _SEQUENCE_BITS}-{offset & ((1 << _SEQUENCE_BITS) - 1)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RedisLog:
    """A topic of Redis Streams: ``<topic>:0`` and so on, one stream per partition.

    A message is an entry whose field ``value`` holds it. A producer writes it to the partition
    that `RedisLog.partition` names for its key.
    """

    url: str
    """``redis://host:port/db`` without a password."""

    topic: str

    num_partitions: int = 4

    password_file: str | None = None
    """File with the password, if the server wants one."""

    timeout_s: float = 10.0
    """How long the server may be silent."""

    def __post_init__(self) -> None:
        require(bool(self.topic), "log.topic", self.topic, "must be named")
        require(
            urlsplit(self.url).password is None, "log.url", urlsplit(self.url).hostname,
            "must hold no password", next_step="Write it to a file and name that in password_file",
        )  # fmt: skip
        require(self.num_partitions > 0, "log.num_partitions", self.num_partitions, "must be >= 1")
        require(self.timeout_s > 0, "log.timeout_s", self.timeout_s, "must be above 0")

    def partitions(self) -> tuple[str, ...]:
        """See `messages.Log`; a stream that nobody has written to yet counts."""
        line = self.connect()
        self.call(line, [(b"PING",)])
        line.close()
        return tuple(str(number) for number in range(self.num_partitions))

    def partition(self, key: bytes) -> str:
        """The partition of a key, the same in every process.

        >>> RedisLog(url="redis://127.0.0.1:6379", topic="t").partition(b"a")
        '3'
        """
        return str(zlib.crc32(key) % self.num_partitions)

    def open(self, starts: Mapping[str, int | None], read: Mapping[str, int]) -> _RedisReader:
        """See `messages.Log`."""
        return _RedisReader(self, starts, read)

    def writer(self) -> _RedisWriter:
        """See `messages.Log`."""
        return _RedisWriter(self)

    def stream(self, partition: str) -> str:
        """Redis key of a partition."""
        return f"{self.topic}:{partition}"

    def connect(self) -> RedisConnection:
        """Open a client; it connects when it is first used."""
        address = RedisAddress.parse(self.url)
        if self.password_file is not None:
            password = Path(self.password_file).read_text(encoding="utf-8").strip()
            address = replace(address, password=password)
        return RedisConnection(address, timeout_s=self.timeout_s)

    def call(self, line: RedisConnection, commands: Sequence[Sequence[bytes]]) -> list[Any]:
        """Ask the server.

        Raises:
            Unavailable: It is away, still loading or refuses.
        """
        try:
            return line.call(commands)
        except Unavailable as error:
            raise Unavailable(
                f"redis {self.url} topic {self.topic}", str(error.__cause__ or error),
                next_step="Nothing is lost: the stream goes on where the table stands",
            ) from error  # fmt: skip


class _RedisReader:
    def __init__(
        self, log: RedisLog, starts: Mapping[str, int | None], read: Mapping[str, int]
    ) -> None:
        self._log = log
        self._line = log.connect()
        self._last = {
            name: "0-0" if not start else id_of(start - 1) for name, start in starts.items()
        }
        self._read = {name: read.get(name, 0) for name in starts}
        self._entries: dict[str, int] = {}
        for name, start in starts.items():
            self._look(name, is_new=start is None)

    def poll(self, max_messages: int, timeout_s: float) -> list[Messages]:
        """See `messages.Reader`."""
        if not self._last:
            return []
        log = self._log
        names = {log.stream(name).encode(): name for name in self._last}
        (found,) = log.call(
            self._line,
            [
                (
                    b"XREAD", b"COUNT", b"%d" % max(1, max_messages // len(self._last)),
                    # A server that waits longer than the client would look dead to it.
                    b"BLOCK", b"%d" % max(1, int(min(timeout_s, log.timeout_s / 2) * 1000)),
                    b"STREAMS", *names, *(last.encode() for last in self._last.values()),
                )
            ],
        )  # fmt: skip
        made = []
        for stream, entries in found or ():
            name = names[stream]
            offsets = [offset_of(entry) for entry, _ in entries]
            self._last[name] = entries[-1][0].decode()
            self._read[name] += len(entries)
            made.append(
                Messages(
                    partition=name,
                    offsets=offsets,
                    arrived_us=[(offset >> _SEQUENCE_BITS) * 1000 for offset in offsets],
                    values=[_value(fields) for _, fields in entries],
                )
            )
        if not made:
            # A stream that was deleted gives nothing, as one that nobody writes to.
            for name in self._last:
                self._look(name, is_new=False)
        return made

    def behind(self) -> Mapping[str, int]:
        """See `messages.Reader`; Redis counts what was ever added to each stream."""
        for name in self._last:
            self._look(name, is_new=False)
        return {name: max(0, n - self._read[name]) for name, n in self._entries.items()}

    def close(self) -> None:
        """See `messages.Reader`."""
        self._line.close()

    def _look(self, name: str, *, is_new: bool) -> None:
        """Compare what the stream has with what was read: none may be gone unread."""
        log, stream = self._log, self._log.stream(name)
        try:
            (reply,) = log.call(self._line, [(b"XINFO", b"STREAM", stream.encode())])
        except Unavailable as error:
            if "no such key" not in str(error):
                raise
            self._entries[name] = 0
            if self._read[name] == 0:
                return
            raise Unavailable(
                f"redis {log.url}", f"stream {stream} is gone, after {self._read[name]} messages",
                next_step="Restore it; or, to begin with a new one, start a stream of another name",
            ) from error  # fmt: skip
        info = dict(zip(reply[::2], reply[1::2], strict=True))
        added, length = int(info[b"entries-added"]), int(info[b"length"])
        gone = added - length
        if is_new:
            # What was cut off before the stream began is not ours.
            self._read[name] = gone
        self._entries[name] = added
        if added < self._read[name] or gone > self._read[name]:
            raise ConfigError(
                f"redis stream {stream}", id_of(offset_of(self._last[name].encode())),
                "must still have every message after this one",
                breaks="it was made anew" if added < self._read[name]
                else f"{gone - self._read[name]} messages were cut off before they were read",
                next_step="Nothing was skipped. To go on with what is there, start a stream of "
                "another name",
            )  # fmt: skip


class _RedisWriter:
    def __init__(self, log: RedisLog) -> None:
        self._log = log
        self._line = log.connect()

    def send(self, messages: Sequence[tuple[bytes, bytes]]) -> None:
        """See `messages.Writer`."""
        log = self._log
        for begin in range(0, len(messages), _ENTRIES_PER_CALL):
            log.call(
                self._line,
                [
                    (b"XADD", log.stream(log.partition(key)).encode(), b"*", _FIELD, value)
                    for key, value in messages[begin : begin + _ENTRIES_PER_CALL]
                ],
            )

    def close(self) -> None:
        """See `messages.Writer`."""
        self._line.close()


def _value(fields: Sequence[bytes]) -> bytes:
    """The message among an entry's fields and values; empty if it holds none."""
    for place in range(0, len(fields), 2):
        if fields[place] == _FIELD:
            return fields[place + 1]
    return b""
