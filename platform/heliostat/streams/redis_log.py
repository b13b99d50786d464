"""Redis Streams as a log: one stream per partition, entry ids as offsets."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from heliostat.config import require
from heliostat.errors import ConfigError, Unavailable
from heliostat.streams.messages import Messages

if TYPE_CHECKING:
    from collections.abc import Callable

_SEQUENCE_BITS = 20
"""An id is milliseconds and a number within them; together they fit into 63 bits, up to 2039 at
full width and a million entries per millisecond."""

_FIELD = b"value"


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
        self.call(self.connect().ping)
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

    def connect(self) -> Any:
        """Open a client; it connects when it is first used."""
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        password = None
        if self.password_file is not None:
            password = Path(self.password_file).read_text(encoding="utf-8").strip()
        return redis.Redis.from_url(
            self.url, password=password, socket_timeout=self.timeout_s,
            socket_connect_timeout=self.timeout_s, retry=Retry(NoBackoff(), 0), protocol=2,
        )  # fmt: skip

    def call(self, ask: Callable[[], Any]) -> Any:
        """Ask the server.

        Raises:
            Unavailable: It is away, still loading or refuses.
        """
        import redis

        try:
            return ask()
        except redis.RedisError as error:
            raise Unavailable(
                f"redis {self.url} topic {self.topic}", str(error) or type(error).__name__,
                next_step="Nothing is lost: the stream goes on where the table stands",
            ) from error  # fmt: skip


class _RedisReader:
    def __init__(
        self, log: RedisLog, starts: Mapping[str, int | None], read: Mapping[str, int]
    ) -> None:
        self._log = log
        self._client = log.connect()
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
        found = log.call(
            lambda: self._client.xread(
                {log.stream(name): last for name, last in self._last.items()},
                count=max(1, max_messages // len(self._last)),
                block=max(1, int(timeout_s * 1000)),
            )
        )
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
                    values=[fields.get(_FIELD, b"") for _, fields in entries],
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
        self._client.close()

    def _look(self, name: str, *, is_new: bool) -> None:
        """Compare what the stream has with what was read: none may be gone unread."""
        import redis

        log, stream = self._log, self._log.stream(name)
        try:
            info = self._client.xinfo_stream(stream)
        except redis.ResponseError as error:
            if "no such key" not in str(error):
                raise Unavailable(f"redis {log.url} topic {log.topic}", str(error)) from error
            self._entries[name] = 0
            if self._read[name] == 0:
                return
            raise Unavailable(
                f"redis {log.url}", f"stream {stream} is gone, after {self._read[name]} messages",
                next_step="Restore it; or, to begin with a new one, start a stream of another name",
            ) from error  # fmt: skip
        except redis.RedisError as error:
            raise Unavailable(f"redis {log.url} topic {log.topic}", str(error)) from error
        added, length = int(info["entries-added"]), int(info["length"])
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
        self._client = log.connect()

    def send(self, messages: Sequence[tuple[bytes, bytes]]) -> None:
        """See `messages.Writer`."""
        log = self._log
        pipeline = self._client.pipeline(transaction=False)
        for key, value in messages:
            pipeline.xadd(log.stream(log.partition(key)), {_FIELD: value})
        log.call(pipeline.execute)

    def close(self) -> None:
        """See `messages.Writer`."""
        self._client.close()
