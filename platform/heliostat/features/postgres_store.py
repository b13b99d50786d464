"""Online features in PostgreSQL: Feast's own tables, and a packed record for each entity and view.

Feast's tables are ``<project>_<view>``, one row per feature. Records of all views lie in one table
under the keys that they have in Redis, so that two versions of a view lie side by side.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

from heliostat.config import require, require_name
from heliostat.errors import Unavailable
from heliostat.features import intervals, wire
from heliostat.features.cells import newest_rows
from heliostat.features.columns import stored
from heliostat.features.definitions import EVENT_TIMESTAMP, FeatureView
from heliostat.features.lookups import Lookups
from heliostat.features.packed import PackedView

if TYPE_CHECKING:
    import polars as pl
    import psycopg

RECORDS = "heliostat records"

_ROWS_PER_CALL = 2_000
_CONNECT_S = 2
_WRITE_TIMEOUT_S = 30.0
_READ_TIMEOUT_S = 1.0

# Everything of ours by name, and made at once: two writers that begin together agree.
_MAKE = f"""
SELECT pg_advisory_xact_lock(7213094318);
CREATE TABLE IF NOT EXISTS "{RECORDS}" (key BYTEA PRIMARY KEY, record BYTEA NOT NULL);
CREATE TABLE IF NOT EXISTS "heliostat materializations"
  (number BIGSERIAL PRIMARY KEY, project TEXT NOT NULL, entry TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS "heliostat progress"
  (project TEXT NOT NULL, work TEXT NOT NULL, num_rows BIGINT NOT NULL, PRIMARY KEY (project, work));
"""

_MAKE_FEAST = """
SELECT pg_advisory_xact_lock(7213094318);
CREATE TABLE IF NOT EXISTS "{table}" (
  entity_key BYTEA, feature_name TEXT, value BYTEA, value_text TEXT NULL, vector_value BYTEA NULL,
  event_ts TIMESTAMPTZ, created_ts TIMESTAMPTZ, PRIMARY KEY (entity_key, feature_name));
CREATE INDEX IF NOT EXISTS "{table}_ek" ON "{table}" (entity_key);
"""

# The first eight bytes of a record are its event's time, in an order that is that of bytes.
_PUT_RECORDS = f"""
INSERT INTO "{RECORDS}" AS old (key, record)
SELECT * FROM unnest(%s::bytea[], %s::bytea[])
ON CONFLICT (key) DO UPDATE SET record = EXCLUDED.record
WHERE substring(old.record FROM 1 FOR 8) <= substring(EXCLUDED.record FROM 1 FOR 8)
"""  # noqa: S608 - a name of ours

_PUT_FEAST = """
INSERT INTO "{table}" AS old (entity_key, feature_name, value, event_ts)
SELECT * FROM unnest(%s::bytea[], %s::text[], %s::bytea[], %s::timestamptz[])
ON CONFLICT (entity_key, feature_name) DO UPDATE
SET value = EXCLUDED.value, event_ts = EXCLUDED.event_ts, created_ts = NULL, value_text = NULL
WHERE EXCLUDED.event_ts >= old.event_ts OR old.event_ts IS NULL
"""

_GET = f'SELECT key, record FROM "{RECORDS}" WHERE key = ANY(%s)'  # noqa: S608 - a name of ours


class PostgresWriter:
    """Puts the newest value of each entity into PostgreSQL; connects at the first write.

    An entity's row replaces the stored one if its event is as new or newer, whatever the order
    in which rows come and however many writers there are. A call writes all or nothing.
    """

    def __init__(self, url: str, project: str) -> None:
        """Prepare.

        Args:
            url: ``postgresql://[user[:password]@]host[:port]/database``.
            project: Of the views.
        """
        require_name("project", project)
        self.url = url
        self._project = project
        self._lock = threading.Lock()
        self._opened: psycopg.Connection[Any] | None = None
        self._known: set[str] = set()

    def write(self, view: FeatureView, frame: pl.DataFrame) -> int:
        """Write the frame's newest row of each entity.

        Args:
            view: Its keys and features; must be columns of the frame, and ``event_timestamp``.
            frame: Rows in any order; those with a null key are left out.

        Returns:
            Entities that were not newer in the store.

        Raises:
            Unavailable: The server is gone; nothing of this call was written.
        """
        # In one order everywhere, so that two writers never wait for each other in a circle.
        rows = newest_rows(view, frame)
        prefix, made = PackedView.of(self._project, view).prefix, self._made(view, rows)
        if not made:
            return 0
        table = _table(self._project, view.name)
        names = [item.name for item in view.features]
        written = 0
        with self._transaction() as connection:
            if table not in self._known:
                connection.execute(_MAKE_FEAST.format(table=table).encode())
            for start in range(0, len(made), _ROWS_PER_CALL):
                entities, records, events, messages = zip(
                    *made[start : start + _ROWS_PER_CALL], strict=True
                )
                put = connection.execute(
                    _PUT_RECORDS.encode(),
                    ([prefix + entity for entity in entities], list(records)),
                )
                written += put.rowcount
                connection.execute(
                    _PUT_FEAST.format(table=table).encode(),
                    (
                        [entity for entity in entities for _ in names],
                        names * len(entities),
                        list(chain.from_iterable(messages)),
                        [event.astimezone(UTC) for event in events for _ in names],
                    ),
                )
        self._known.add(table)
        return written

    def _made(self, view: FeatureView, rows: pl.DataFrame) -> list[tuple[Any, ...]]:
        """Entity, record, event and Feast's values of each row, ordered by the bytes of keys."""
        events = rows[EVENT_TIMESTAMP].to_list()
        batches = list(stored(self._project, view, rows))
        return sorted(
            zip(
                chain.from_iterable(batch.entities for batch in batches),
                chain.from_iterable(batch.packed for batch in batches),
                events,
                chain.from_iterable(zip(*batch.messages, strict=True) for batch in batches),
                strict=True,
            )
        )

    def record(self, entry: str) -> None:
        """Keep a line about what was written, beside it."""
        with self._transaction() as connection:
            connection.execute(
                'INSERT INTO "heliostat materializations" (project, entry) VALUES (%s, %s)',
                (self._project, entry),
            )

    def recorded(self) -> list[str]:
        """Every line of `record` for the project, oldest first."""
        with self._transaction() as connection:
            found = connection.execute(
                'SELECT entry FROM "heliostat materializations" WHERE project = %s ORDER BY number',
                (self._project,),
            )
            return [entry for (entry,) in found]

    def note(self, work: str, rows: int) -> None:
        """Remember that a piece of work is done, until `forget`."""
        with self._transaction() as connection:
            connection.execute(
                'INSERT INTO "heliostat progress" (project, work, num_rows) VALUES (%s, %s, %s) '
                "ON CONFLICT (project, work) DO UPDATE SET num_rows = EXCLUDED.num_rows",
                (self._project, work, rows),
            )

    def notes(self) -> dict[str, int]:
        """What was noted and not forgotten: rows by piece of work."""
        with self._transaction() as connection:
            found = connection.execute(
                'SELECT work, num_rows FROM "heliostat progress" WHERE project = %s',
                (self._project,),
            )
            return dict(found.fetchall())

    def forget(self, works: Sequence[str]) -> None:
        """Drop notes."""
        with self._transaction() as connection:
            connection.execute(
                'DELETE FROM "heliostat progress" WHERE project = %s AND work = ANY(%s)',
                (self._project, list(works)),
            )

    def clear(self, views: Sequence[FeatureView]) -> None:
        """Make the views empty, with what was recorded and noted of them."""
        names = [view.name for view in views]
        with self._transaction() as connection:
            for view in views:
                table = _table(self._project, view.name)
                connection.execute(_MAKE_FEAST.format(table=table).encode())
                connection.execute(f'TRUNCATE "{table}"'.encode())
                prefix = PackedView.of(self._project, view).prefix
                connection.execute(
                    f'DELETE FROM "{RECORDS}" WHERE substring(key FROM 1 FOR %s) = %s'.encode(),  # noqa: S608 - a name of ours
                    (len(prefix), prefix),
                )
            connection.execute(
                'DELETE FROM "heliostat progress" WHERE project = %s', (self._project,)
            )
            lines = connection.execute(
                'SELECT number, entry FROM "heliostat materializations" WHERE project = %s',
                (self._project,),
            ).fetchall()
            kept = set(intervals.without((line for _, line in lines), names))
            gone = [number for number, line in lines if line not in kept]
            connection.execute(
                'DELETE FROM "heliostat materializations" WHERE number = ANY(%s)', (gone,)
            )

    def close(self) -> None:
        """Close the connection; the next write opens it again."""
        with self._lock:
            self._drop()

    @contextmanager
    def _transaction(self) -> Iterator[psycopg.Connection[Any]]:
        """One transaction at a time, in whatever thread."""
        import psycopg

        with self._lock:
            try:
                if self._opened is None or self._opened.closed:
                    self._opened = psycopg.connect(self.url, **_options(_WRITE_TIMEOUT_S))
                    self._known.clear()
                    with self._opened.transaction():
                        self._opened.execute(_MAKE.encode())
                with self._opened.transaction():
                    yield self._opened
            except psycopg.Error as error:
                self._drop()
                raise _gone(self.url, error) from error

    def _drop(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = None
        self._known.clear()


class PostgresReader:
    """Reads the packed records of a service by entity keys; needs neither Feast nor pandas.

    `read` blocks and may be called in many threads; `fetch` belongs to one event loop, where
    requests of one turn share one query, so that one connection serves them all.
    """

    def __init__(
        self, url: str, views: Sequence[PackedView], *, timeout_s: float = _READ_TIMEOUT_S
    ) -> None:
        """Prepare; connects to nothing yet.

        Args:
            url: As for `PostgresWriter`.
            views: What to read, by the versions that the model was trained on.
            timeout_s: For how long a query may take.
        """
        require(timeout_s > 0, "online.timeout_s", timeout_s, "must be above 0")
        self.url = url
        self._timeout_s = timeout_s
        self._lookups = Lookups(views)
        self._local = threading.local()
        self._line: psycopg.AsyncConnection[Any] | None = None
        self._waiting: dict[bytes, None] = {}
        self._turn: asyncio.Task[dict[bytes, bytes]] | None = None
        self._query = asyncio.Lock()

    def read(
        self, keys: Mapping[str, Sequence[str | int | None]], at: datetime | None
    ) -> dict[str, list[wire.Value]]:
        """Look up one or more rows; see `heliostat.features.lookups.Lookups`.

        Raises:
            ConfigError: A key is missing, or lengths differ.
            Unavailable: The server is gone or silent, or holds no records yet.
        """
        import psycopg

        names = self._lookups.names(keys)
        connection: psycopg.Connection[Any] | None = getattr(self._local, "connection", None)
        try:
            if connection is None or connection.closed:
                connection = psycopg.connect(self.url, autocommit=True, **_options(self._timeout_s))
                self._local.connection = connection
            found = dict(
                connection.execute(_GET.encode(), (names,), prepare=True, binary=True).fetchall()
            )
        except psycopg.Error as error:
            if connection is not None:
                connection.close()
            self._local.connection = None
            raise _gone(self.url, error) from error
        return self._lookups.decode([found.get(name) for name in names], at)

    async def fetch(
        self, keys: Mapping[str, Sequence[str | int | None]], at: datetime | None
    ) -> dict[str, list[wire.Value]]:
        """Look up rows without holding up the event loop; see `read`."""
        names = self._lookups.names(keys)
        self._waiting.update(dict.fromkeys(names))
        if self._turn is None:
            self._turn = asyncio.create_task(self._together())
            # It may fail after the last one who waited has run out of time.
            self._turn.add_done_callback(_looked_at)
        found = await asyncio.shield(self._turn)
        return self._lookups.decode([found.get(name) for name in names], at)

    def drop(self) -> None:
        """Give up the event loop's connection: the next `fetch` opens another."""
        line, self._line, self._turn = self._line, None, None
        self._query = asyncio.Lock()
        if line is not None:
            line.pgconn.finish()

    async def _together(self) -> dict[bytes, bytes]:
        """Ask for all names that gathered while the query before was under way."""
        import psycopg

        query = self._query
        async with query:
            names, self._waiting, self._turn = list(self._waiting), {}, None
            try:
                if self._line is None or self._line.closed:
                    self._line = await psycopg.AsyncConnection.connect(
                        self.url, autocommit=True, **_options(self._timeout_s)
                    )
                line = self._line
                done = await line.execute(_GET.encode(), (names,), prepare=True, binary=True)
                return dict(await done.fetchall())
            except (psycopg.Error, OSError, ValueError) as error:
                # Besides psycopg's own: what waiting on a connection raises that `drop` closed.
                lost, self._line = self._line, None
                if lost is not None:
                    lost.pgconn.finish()
                raise _gone(self.url, error) from error


def _looked_at(turn: asyncio.Task[dict[bytes, bytes]]) -> None:
    if not turn.cancelled():
        turn.exception()


def _options(timeout_s: float) -> dict[str, Any]:
    return {
        "connect_timeout": _CONNECT_S,
        "options": f"-c statement_timeout={round(timeout_s * 1000)} -c timezone=UTC",
        "application_name": "heliostat",
    }


def _gone(url: str, error: Exception) -> Unavailable:
    place = url.rpartition("@")[2].partition("?")[0]
    said = str(error).strip().splitlines()
    return Unavailable(f"online store {place}", said[0] if said else type(error).__name__)


def _table(project: str, view: str) -> str:
    require_name("view.name", view)
    name = f"{project}_{view}"
    # PostgreSQL cuts longer names without a word, and two views would share a table.
    require(len(name) <= 60, "project_view", name, "must be at most 60 letters in PostgreSQL")
    return name
