"""Online features in Redis: Feast's own hash of each entity, and a packed record for each view."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Sequence
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from heliostat.config import require_name
from heliostat.features import intervals, wire
from heliostat.features.cells import newest_rows
from heliostat.features.columns import Stored, stored
from heliostat.features.definitions import FeatureView
from heliostat.features.lookups import HashLookups, HashView, Keys, Lookups
from heliostat.features.packed import PackedView, feast_fields
from heliostat.features.redis_client import RedisAddress, RedisConnection, RedisLine, packed

if TYPE_CHECKING:
    import polars as pl

_ENTITIES_PER_CALL = 200
_WRITE_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 1.0

# Whole microseconds do not fit into Lua's numbers, so halves are compared; Lua's own comparison
# of strings follows the server's locale. Feast's field holds a protocol buffer whose first
# number is the seconds: a newer row that Feast itself wrote stays.
_SCRIPT = b"""\
local function later(a, b)
  local ah, al = struct.unpack('>I4I4', a)
  local bh, bl = struct.unpack('>I4I4', b)
  return ah > bh or (ah == bh and al > bl)
end
local function seconds_of(message)
  if string.byte(message, 1) ~= 8 then return 0 end
  local number, scale = 0, 1
  for i = 2, #message do
    local byte = string.byte(message, i)
    number = number + (byte % 128) * scale
    scale = scale * 128
    if byte < 128 then break end
  end
  if number >= 2^63 then number = number - 2^64 end
  return number
end
local call, n = redis.call, tonumber(ARGV[1])
local time_name, at, written = ARGV[n + 1], n + 2, 0
local fields = {}
for i = 1, n do
  fields[2 * i - 1] = ARGV[1 + i]
  fields[2 * i] = ''
end
for k = 1, #KEYS, 2 do
  local record = ARGV[at]
  local old = call('GETRANGE', KEYS[k], '0', '7')
  if #old < 8 or not later(old, record) then
    call('SET', KEYS[k], record)
    written = written + 1
    local known = call('HGET', KEYS[k + 1], time_name)
    if not known or seconds_of(known) <= seconds_of(ARGV[at + n]) then
      for i = 1, n do fields[2 * i] = ARGV[at + i] end
      call('HSET', KEYS[k + 1], unpack(fields))
    end
  end
  at = at + 1 + n
end
return written
"""
_SHA = hashlib.sha1(_SCRIPT, usedforsecurity=False).hexdigest().encode()


class RedisWriter:
    """Puts the newest value of each entity into Redis; connects at the first write.

    An entity's row replaces the stored one if its event is as new or newer, whatever the order
    in which rows come and however many writers there are. Readers see a row's features of one
    view change together.
    """

    def __init__(self, address: RedisAddress, project: str) -> None:
        require_name("project", project)
        self.address = address
        self._project = project
        self._connection = RedisConnection(address, timeout_s=_WRITE_TIMEOUT_S)
        self._lock = threading.Lock()

    def write(self, view: FeatureView, frame: pl.DataFrame) -> int:
        """Write the frame's newest row of each entity.

        Args:
            view: Its keys and features; must be columns of the frame, and ``event_timestamp``.
            frame: Rows in any order; those with a null key are left out.

        Returns:
            Entities that were not newer in the store.

        Raises:
            Unavailable: The server is gone; rows before that may have been written.
        """
        batches = stored(self._project, view, newest_rows(view, frame))
        names, time_name = feast_fields(view)
        prefix, suffix = PackedView.of(self._project, view).prefix, self._project.encode()
        fields = (b"%d" % (len(names) + 1), *names, time_name)
        with self._lock:
            self._connection.call([(b"SCRIPT", b"LOAD", _SCRIPT)])
            calls = (_calls(batch, prefix, suffix, fields) for batch in batches)
            return sum(sum(written) for written in self._connection.stream(calls))

    def record(self, entry: str) -> None:
        """Keep a line about what was written, beside it."""
        with self._lock:
            self._connection.call([(b"RPUSH", self._log, entry.encode())])

    def recorded(self) -> list[str]:
        """Every line of `record` for the project, oldest first."""
        with self._lock:
            (entries,) = self._connection.call([(b"LRANGE", self._log, b"0", b"-1")])
        return [entry.decode() for entry in entries]

    def note(self, work: str, rows: int) -> None:
        """Remember that a piece of work is done, until `forget`."""
        with self._lock:
            self._connection.call([(b"HSET", self._notes, work.encode(), b"%d" % rows)])

    def notes(self) -> dict[str, int]:
        """What was noted and not forgotten: rows by piece of work."""
        with self._lock:
            (found,) = self._connection.call([(b"HGETALL", self._notes)])
        return {
            work.decode(): int(rows) for work, rows in zip(found[::2], found[1::2], strict=True)
        }

    def forget(self, works: Sequence[str]) -> None:
        """Drop notes."""
        if works:
            names = [work.encode() for work in works]
            with self._lock:
                self._connection.call([(b"HDEL", self._notes, *names)])

    def clear(self, views: Sequence[FeatureView]) -> None:
        """Make the views empty, so that a replay can start again from an earlier time.

        What was recorded and noted of them goes too: it would say that values are there. Looks
        at every key of the database, a thousand at a time; others are served between.
        """
        kept = intervals.without(self.recorded(), [view.name for view in views])
        with self._lock:
            self._connection.call([
                (b"DEL", self._log, self._notes),
                *[(b"RPUSH", self._log, line.encode()) for line in kept],
            ])  # fmt: skip
        for view in views:
            prefix = PackedView.of(self._project, view).prefix
            names, time_name = feast_fields(view)
            cursor = b"0"
            while True:
                with self._lock:
                    scan = (b"SCAN", cursor, b"MATCH", prefix + b"*", b"COUNT", b"1000")
                    ((cursor, keys),) = self._connection.call([scan])
                    hashes = [key[len(prefix) :] + self._project.encode() for key in keys]
                    if keys:
                        self._connection.call([
                            (b"UNLINK", *keys), *[(b"HDEL", key, *names, time_name) for key in hashes],
                        ])  # fmt: skip
                if cursor == b"0":
                    break

    def close(self) -> None:
        """Close the connection; the next write opens it again."""
        with self._lock:
            self._connection.close()

    @property
    def _notes(self) -> bytes:
        return f"heliostat:{self._project}:progress".encode()

    @property
    def _log(self) -> bytes:
        return f"heliostat:{self._project}:materializations".encode()


def _calls(
    batch: Stored, prefix: bytes, suffix: bytes, fields: Sequence[bytes]
) -> list[list[bytes]]:
    """The script's calls for a batch: few entities each, since none is served meanwhile."""
    keys = [name for entity in batch.entities for name in (prefix + entity, entity + suffix)]
    rows = list(zip(batch.packed, *batch.messages, batch.times, strict=True))
    found = []
    for start in range(0, len(rows), _ENTITIES_PER_CALL):
        some = rows[start : start + _ENTITIES_PER_CALL]
        named = keys[2 * start : 2 * (start + len(some))]
        found.append(
            [b"EVALSHA", _SHA, b"%d" % len(named), *named, *fields, *chain.from_iterable(some)]
        )
    return found


class _Questions(Protocol):
    """What to ask a server for some entities, and what its answer means; both pure."""

    def commands(self, keys: Keys) -> list[list[bytes]]:
        """All that is asked for these entities."""

    def decode(self, replies: list[Any], at: datetime | None) -> dict[str, list[wire.Value]]:
        """Every feature's values from the replies, one to each command."""


class _Records:
    """All packed records by one command."""

    def __init__(self, views: Sequence[PackedView]) -> None:
        self._lookups = Lookups(views)

    def commands(self, keys: Keys) -> list[list[bytes]]:
        # An empty key holds nothing: null keys need no place of their own in the answer.
        return [[b"MGET", *self._lookups.names(keys)]]

    def decode(self, replies: list[Any], at: datetime | None) -> dict[str, list[wire.Value]]:
        return self._lookups.decode(replies[0], at)


class _Reader:
    """Asks a server and decodes.

    `read` blocks and may be called in many threads; `fetch` belongs to one event loop. What a
    call asks leaves in one packet.
    """

    def __init__(self, address: RedisAddress, questions: _Questions, timeout_s: float) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._questions = questions
        self._local = threading.local()
        self._line: RedisLine | None = None
        self._opening: asyncio.Task[RedisLine] | None = None

    def read(self, keys: Keys, at: datetime | None) -> dict[str, list[wire.Value]]:
        """Look up one or more rows.

        Args:
            keys: Values of each key, all of one length; None matches nothing.
            at: The moment to read as of: values older than their view's time to live are
                missing, and so are values newer than `at`. None takes the server's clock for
                the time to live, and every value that is stored.

        Returns:
            Every feature of the service: its values, None where missing.

        Raises:
            ConfigError: A key is missing, or lengths differ.
            Unavailable: The server is gone or silent.
        """
        commands = self._questions.commands(keys)
        connection: RedisConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = RedisConnection(self.address, timeout_s=self._timeout_s)
            self._local.connection = connection
        return self._questions.decode(connection.call(commands), at)

    async def fetch(self, keys: Keys, at: datetime | None) -> dict[str, list[wire.Value]]:
        """Look up rows without holding up the event loop; see `read`."""
        commands = self._questions.commands(keys)
        line = self._line
        if line is None or not line.is_open:
            line = await self._opened()
        return self._questions.decode(await line.exchange(packed(commands), len(commands)), at)

    def drop(self) -> None:
        """Give up the event loop's connection: the next `fetch` opens another."""
        lines = [self._line, _opened_line(self._opening)]
        self._line = self._opening = None
        for line in lines:
            if line is not None:
                line.abort()

    async def _opened(self) -> RedisLine:
        """Open one connection, however many ask for it."""
        line = _opened_line(self._opening)
        if self._opening is None or (self._opening.done() and (line is None or not line.is_open)):
            self._opening = asyncio.create_task(RedisLine.open(self.address))
            # It may fail after the last one who waited has run out of time.
            self._opening.add_done_callback(_opened_line)
        # Who runs out of time must not take the connection from those who wait with him.
        self._line = await asyncio.shield(self._opening)
        return self._line


class RedisReader(_Reader):
    """Reads the packed records of a service by entity keys; needs neither Feast nor pandas.

    `read` blocks and may be called in many threads; `fetch` belongs to one event loop. All
    rows and views of a call are one command.
    """

    def __init__(
        self,
        address: RedisAddress,
        views: Sequence[PackedView],
        *,
        timeout_s: float = _READ_TIMEOUT_S,
    ) -> None:
        """Prepare; connects to nothing yet.

        Args:
            address: The server.
            views: What to read, by the versions that the model was trained on.
            timeout_s: For how long `read` waits for a silent server; who calls `fetch` sets
                a time limit around it.
        """
        super().__init__(address, _Records(views), timeout_s)


class RedisHashReader(_Reader):
    """Reads Feast's own hashes, of views that Feast's tools write; otherwise as `RedisReader`.

    One command for each row and view, all in one packet.
    """

    def __init__(
        self,
        address: RedisAddress,
        views: Sequence[HashView],
        *,
        timeout_s: float = _READ_TIMEOUT_S,
    ) -> None:
        """Prepare; see `RedisReader`."""
        super().__init__(address, HashLookups(views), timeout_s)


def _opened_line(opening: asyncio.Task[RedisLine] | None) -> RedisLine | None:
    """The line that a finished task opened, if it did."""
    if opening is None or not opening.done() or opening.cancelled() or opening.exception():
        return None
    return opening.result()
