"""The append-only event log: durable truth of everything that happened, in order."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from heliostat.errors import ConfigError, HeliostatError
from heliostat.store import leases, schema

_GENESIS = "0" * 64


class Conflict(HeliostatError):
    """Somebody else appended first; read the stream again and decide anew."""


class Tampered(HeliostatError):
    """A stored event was changed, removed or put elsewhere after it was written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing that happened; never changed afterwards."""

    stream: str
    version: int
    """Place in the stream, from 1, without gaps."""

    kind: str
    payload: Mapping[str, Any]
    at: float
    """When it was appended, in seconds since 1970."""

    idempotency_key: str | None
    previous_hash: str
    hash: str
    """SHA-256 over all other fields, which chains each event to all before it."""


class EventLog:
    """Appends to and reads from the event log in one state database."""

    def __init__(self, url_or_path: str | Path, clock: Callable[[], float] = time.time) -> None:
        """Use the state database; it is opened at first use.

        Args:
            url_or_path: Path of an SQLite file, or an SQLAlchemy URL.
            clock: Tells the time that new events carry.
        """
        self._database = schema.Database(url_or_path)
        self._clock = clock

    def append(
        self,
        stream: str,
        kind: str,
        payload: Mapping[str, Any],
        *,
        expected_version: int | None = None,
        idempotency_key: str | None = None,
        fence: leases.Fence | None = None,
    ) -> Event:
        """Append one event; once this returns, a kill does not lose it.

        Args:
            stream: What the event is about; each stream is numbered on its own.
            kind: What happened, such as ``rollout.started``.
            payload: Plain JSON values.
            expected_version: Version of the stream's last event that this one was decided
                on; 0 for an empty stream, None if any will do.
            idempotency_key: An append with a key that the stream has already appends
                nothing and returns the first event.
            fence: Proof of the writer's lease.

        Raises:
            Conflict: The stream has moved on from `expected_version`.
            ConfigError: The idempotency key was used for another kind of event.
            LeaseLost: The fence is stale.
        """
        text = _canonical(payload)
        with self._database.write() as connection:
            if fence is not None:
                leases.check(connection, fence)
            if idempotency_key is not None:
                earlier = _find(connection, stream, idempotency_key)
                if earlier is not None:
                    return _same_kind(earlier, kind)
            head = connection.execute(
                sa.select(schema.heads).where(schema.heads.c.stream == stream)
            ).first()
            version, previous = (head.version, head.hash) if head else (0, _GENESIS)
            if expected_version is not None and expected_version != version:
                raise Conflict(
                    f"stream {stream}: expected version {expected_version}, but it is at {version}"
                )
            values = {
                "stream": stream,
                "version": version + 1,
                "kind": kind,
                "payload": text,
                "at": self._clock(),
                "idempotency_key": idempotency_key,
                "previous_hash": previous,
            }
            values["hash"] = _hash(values)
            connection.execute(sa.insert(schema.events).values(**values))
            if head is None:
                connection.execute(
                    sa.insert(schema.heads).values(
                        stream=stream, version=version + 1, hash=values["hash"]
                    )
                )
            else:
                connection.execute(
                    sa.update(schema.heads)
                    .where(schema.heads.c.stream == stream)
                    .values(version=version + 1, hash=values["hash"])
                )
        return Event(**{**values, "payload": json.loads(text)})

    def read(self, stream: str, after: int = 0) -> list[Event]:
        """Return the stream's events with a version above `after`, in order."""
        table = schema.events
        rows = self._database.read(
            sa.select(table)
            .where(table.c.stream == stream, table.c.version > after)
            .order_by(table.c.version)
        )
        return [_event(row) for row in rows]

    def last(self, stream: str) -> Event | None:
        """Return the stream's newest event, or None if it is empty."""
        table = schema.events
        rows = self._database.read(
            sa.select(table)
            .where(table.c.stream == stream)
            .order_by(table.c.version.desc())
            .limit(1)
        )
        return _event(rows[0]) if rows else None

    def find(self, stream: str, idempotency_key: str) -> Event | None:
        """Return the event that was appended under the key, or None."""
        table = schema.events
        rows = self._database.read(
            sa.select(table).where(
                table.c.stream == stream, table.c.idempotency_key == idempotency_key
            )
        )
        return _event(rows[0]) if rows else None

    def streams(self, prefix: str = "") -> list[str]:
        """Return the names of all streams that begin with the prefix, sorted."""
        table = schema.heads
        rows = self._database.read(
            sa.select(table.c.stream)
            .where(table.c.stream.startswith(prefix, autoescape=True))
            .order_by(table.c.stream)
        )
        return [row.stream for row in rows]

    def verify(self, stream: str) -> int:
        """Check the hash chain of a stream and return its number of events.

        Finds a changed, removed, added or moved event, and a cut end. It does not find a
        chain that somebody with write access to the database computed anew as a whole.

        Raises:
            Tampered: Names the first event that does not fit.
        """
        previous, count = _GENESIS, 0
        table = schema.events
        query = sa.select(table).where(table.c.stream == stream).order_by(table.c.version)
        for count, row in enumerate(self._database.read(query), start=1):
            values = {key: value for key, value in row._mapping.items() if key != "hash"}
            if row.version != count or row.previous_hash != previous or row.hash != _hash(values):
                raise Tampered(f"stream {stream}: event {count} is not as it was written")
            previous = row.hash
        heads = self._database.read(sa.select(schema.heads).where(schema.heads.c.stream == stream))
        head = (heads[0].version, heads[0].hash) if heads else (0, _GENESIS)
        if head != (count, previous):
            raise Tampered(f"stream {stream}: {head[0]} events were written, {count} are there")
        return count

    def close(self) -> None:
        """Close the database; the next use opens it again."""
        self._database.close()


def _find(connection: sa.Connection, stream: str, key: str) -> Event | None:
    table = schema.events
    row = connection.execute(
        sa.select(table).where(table.c.stream == stream, table.c.idempotency_key == key)
    ).first()
    return None if row is None else _event(row)


def _same_kind(event: Event, kind: str) -> Event:
    if event.kind != kind:
        raise ConfigError(
            "idempotency_key", event.idempotency_key, f"was used for {event.kind} before"
        )
    return event


def _event(row: sa.Row[Any]) -> Event:
    values = dict(row._mapping)
    return Event(**{**values, "payload": json.loads(values["payload"])})


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _hash(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(dict(values)).encode()).hexdigest()
