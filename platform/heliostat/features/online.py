"""Online features in Feast's SQLite layout, written and read without Feast."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.config import require, require_name
from heliostat.errors import Unavailable
from heliostat.features import intervals, online_tables, wire
from heliostat.features.cells import Cell, encode, newest_rows
from heliostat.features.definitions import FeatureView
from heliostat.features.lookups import Keys

if TYPE_CHECKING:
    import polars as pl

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_BUSY_S = 10.0

# No project and view can make a table of this name: it holds a space.
_LOG = (
    'CREATE TABLE IF NOT EXISTS "heliostat materializations" '
    "(project TEXT NOT NULL, entry TEXT NOT NULL)"
)

_NOTES = (
    'CREATE TABLE IF NOT EXISTS "heliostat progress" (project TEXT NOT NULL, '
    "work TEXT NOT NULL, num_rows INTEGER NOT NULL, PRIMARY KEY (project, work))"
)


class OnlineWriter:
    """Puts the newest value of each entity into the online store; opens it at the first write.

    Feast's tables ``<project>_<view>``, with one column more, ``event_us``: Feast keeps whole
    seconds only, and the time to live is compared to the microsecond. Of a view whose definition
    changed, the older one has a table of its own; see `online_tables`.
    """

    def __init__(self, path: Path, project: str) -> None:
        require_name("project", project)
        self.path = path
        self._project = project
        self._lock = threading.Lock()
        self._opened: sqlite3.Connection | None = None
        self._versions: dict[FeatureView, str] = {}

    def write(self, view: FeatureView, frame: pl.DataFrame) -> int:
        """Write the frame's newest row of each entity, all of them or none.

        An entity's row replaces the stored one if its event is as new or newer; readers see
        a row's features change together.

        Args:
            view: Its keys and features; must be columns of the frame, and ``event_timestamp``.
            frame: Rows in any order; those with a null key are left out.

        Returns:
            Entities written, those that were newer in the store included.
        """
        newest = newest_rows(view, frame)
        if newest.height:
            self.write_cells([(view, encode(view, newest))])
        return newest.height

    def write_cells(self, batches: Sequence[tuple[FeatureView, Iterable[Cell]]]) -> None:
        """Write encoded rows of several views in one transaction: readers see all or none.

        Of several cells of one entity and feature the last of those with the newest event stays.
        """
        with self._transaction() as connection:
            for view, cells in batches:
                table = self._table(connection, view)
                connection.executemany(
                    f'INSERT INTO "{table}" (entity_key, feature_name, value, event_ts, event_us) '  # noqa: S608 - names are checked
                    "VALUES (?1, ?2, ?3, ?4 / 1000000, ?4) "
                    "ON CONFLICT (entity_key, feature_name) DO UPDATE SET "
                    "value = excluded.value, event_ts = excluded.event_ts, "
                    "event_us = excluded.event_us, created_ts = NULL "
                    f"WHERE excluded.event_us >= {_EVENT_US}",
                    cells,
                )

    def record(self, entry: str) -> None:
        """Keep a line about what was written, beside it."""
        with self._transaction() as connection:
            connection.execute(_LOG)
            connection.execute(
                'INSERT INTO "heliostat materializations" (project, entry) VALUES (?, ?)',
                (self._project, entry),
            )

    def recorded(self) -> list[str]:
        """Every line of `record` for the project, oldest first."""
        with self._transaction() as connection:
            connection.execute(_LOG)
            rows = connection.execute(
                'SELECT entry FROM "heliostat materializations" WHERE project = ? ORDER BY rowid',
                (self._project,),
            )
            return [entry for (entry,) in rows]

    def note(self, work: str, rows: int) -> None:
        """Remember that a piece of work is done, until `forget`."""
        with self._transaction() as connection:
            connection.execute(_NOTES)
            connection.execute(
                'INSERT OR REPLACE INTO "heliostat progress" (project, work, num_rows) '
                "VALUES (?, ?, ?)",
                (self._project, work, rows),
            )

    def notes(self) -> dict[str, int]:
        """What was noted and not forgotten: rows by piece of work."""
        with self._transaction() as connection:
            connection.execute(_NOTES)
            return dict(
                connection.execute(
                    'SELECT work, num_rows FROM "heliostat progress" WHERE project = ?',
                    (self._project,),
                ).fetchall()
            )

    def forget(self, works: Sequence[str]) -> None:
        """Drop notes."""
        with self._transaction() as connection:
            connection.execute(_NOTES)
            connection.executemany(
                'DELETE FROM "heliostat progress" WHERE project = ? AND work = ?',
                [(self._project, work) for work in works],
            )

    def clear(self, views: Sequence[FeatureView]) -> None:
        """Make the views empty, so that a replay can start again from an earlier time.

        They are the newest definitions from now on. What was recorded and noted of them goes too:
        it would say that values are there.
        """
        with self._transaction() as connection:
            for view in views:
                table = online_tables.promote(
                    connection, self._project, view.name, self._version(view)
                )
                connection.execute(f'DELETE FROM "{table}"')  # noqa: S608 - names are checked
            connection.execute(_NOTES)
            connection.execute(
                'DELETE FROM "heliostat progress" WHERE project = ?', (self._project,)
            )
            connection.execute(_LOG)
            lines = connection.execute(
                'SELECT rowid, entry FROM "heliostat materializations" WHERE project = ?',
                (self._project,),
            ).fetchall()
            kept = set(intervals.without((line for _, line in lines), [v.name for v in views]))
            connection.executemany(
                'DELETE FROM "heliostat materializations" WHERE rowid = ?',
                [(number,) for number, line in lines if line not in kept],
            )

    def close(self) -> None:
        """Close the store; the next write opens it again."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
            self._opened = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction at a time, in whatever thread; opened once, since that costs more."""
        with self._lock:
            if self._opened is None:
                self._opened = self._connect()
            with self._opened:
                self._opened.execute("BEGIN IMMEDIATE")
                yield self._opened

    def _table(self, connection: sqlite3.Connection, view: FeatureView) -> str:
        version = self._version(view)
        return online_tables.to_write(connection, self._project, view.name, version)

    def _version(self, view: FeatureView) -> str:
        """The view's digest; to make one takes long."""
        version = self._versions.get(view)
        if version is None:
            version = self._versions[view] = view.digest()
        return version

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=_BUSY_S, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA cache_size = -65536")
        # A clock that advances often should not wait for a checkpoint each time.
        connection.execute("PRAGMA wal_autocheckpoint = 8000")
        return connection


class OnlineReader:
    """Reads the features of a service by entity keys; needs neither Feast nor pandas.

    Safe in many threads, and while a writer writes: one read sees one state of the store.
    """

    def __init__(self, path: Path, project: str, views: Sequence[Any]) -> None:
        """Prepare the queries; touches no disk.

        Args:
            path: The store's SQLite file.
            project: Prefix of its tables.
            views: Mappings or objects with ``name``, ``keys``, ``features`` (names),
                ``ttl_s`` and maybe ``version``, as `FeatureService.describe` or a model package
                gives them; without a version the newest definition is read.
        """
        require_name("project", project)
        self._path = path
        self._views = [_ReadView(project, view) for view in views]
        self._features = [name for view in self._views for name in view.features]
        self._local = threading.local()

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
            Unavailable: The store or one of its tables does not exist, or cannot be read.
        """
        columns = self._columns(keys)
        num_rows = len(columns[self._views[0].keys[0]])
        if at is None:
            at_us, latest_us = time.time_ns() // 1000, None
        else:
            at_us = latest_us = (at - _EPOCH) // _MICROSECOND
        connection = self._connection()
        while True:
            query = self._query(connection)
            found: dict[str, list[wire.Value]] = {
                name: [None] * num_rows for name in self._features
            }
            failure: sqlite3.Error | None = None
            try:
                self._fill(found, connection, query, columns, (at_us, latest_us))
            except sqlite3.Error as error:
                failure = error
            # Tables that have other names by now may have held another definition.
            if self._is_current(connection):
                if failure is not None:
                    raise self._unavailable(failure) from failure
                return found
            self._local.query = None

    def _fill(
        self,
        found: dict[str, list[wire.Value]],
        connection: sqlite3.Connection,
        query: str,
        columns: Keys,
        moments_us: tuple[int, int | None],
    ) -> None:
        at_us, latest_us = moments_us
        num_rows = len(columns[self._views[0].keys[0]])
        # Around several statements, so that all rows come from one state of the store.
        if num_rows > 1:
            connection.execute("BEGIN")
        try:
            for row in range(num_rows):
                parameters = [view.key_of(columns, row) for view in self._views]
                for index, name, value, event_us in connection.execute(query, parameters):
                    ttl_us = self._views[index].ttl_us
                    if ttl_us is not None and at_us - event_us > ttl_us:
                        continue
                    if latest_us is not None and event_us > latest_us:
                        continue
                    if name in found:
                        found[name][row] = wire.decode(value)
        finally:
            if num_rows > 1:
                connection.execute("COMMIT")

    def _is_current(self, connection: sqlite3.Connection) -> bool:
        """Whether no table came or went since the query was made."""
        try:
            (schema,) = connection.execute("PRAGMA schema_version").fetchone()
        except sqlite3.Error:
            return True
        return bool(schema == self._local.query[0])

    def _query(self, connection: sqlite3.Connection) -> str:
        """The query of one row; names are looked up anew when some table came or went."""
        known: tuple[int, str] | None = getattr(self._local, "query", None)
        if known is not None:
            return known[1]
        try:
            (schema,) = connection.execute("PRAGMA schema_version").fetchone()
            query = self._new_query(connection)
        except sqlite3.Error as error:
            raise self._unavailable(error) from error
        self._local.query = (schema, query)
        return query

    def _new_query(self, connection: sqlite3.Connection) -> str:
        wanted = [(view.table, view.version) for view in self._views]
        tables, missing = online_tables.to_read(connection, wanted)
        if missing is not None:
            raise Unavailable(
                f"online store {self._path}", f"has no {missing}; another definition is there",
                next_step="Materialize the definitions that the model was trained on",
            )  # fmt: skip
        return " UNION ALL ".join(
            f"SELECT {index}, feature_name, value, "  # noqa: S608 - names are checked
            + (_EVENT_US if online_tables.has_microseconds(connection, table) else _FEASTS_US)
            + f' FROM "{table}" WHERE entity_key = ?'
            for index, table in enumerate(tables)
        )

    def _columns(self, keys: Keys) -> Keys:
        length: int | None = None
        for view in self._views:
            for key in view.keys:
                require(key in keys, "entity keys", key, "must be given")
                if length is None:
                    length = len(keys[key])
                require(
                    len(keys[key]) == length,
                    f"entity key {key}",
                    len(keys[key]),
                    f"must have {length} values, as the other keys",
                )
        return keys

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            try:
                connection = sqlite3.connect(
                    self._path.absolute().as_uri() + "?mode=ro", uri=True, timeout=_BUSY_S,
                    isolation_level=None,
                )  # fmt: skip
            except sqlite3.Error as error:
                raise self._unavailable(error) from error
            self._local.connection = connection
        return connection

    def _unavailable(self, error: sqlite3.Error) -> Unavailable:
        return Unavailable(
            f"online store {self._path}",
            str(error),
            next_step="Materialize the service's views, then try again",
        )


class _ReadView:
    __slots__ = ("_encode", "features", "keys", "table", "ttl_us", "version")

    def __init__(self, project: str, view: Any) -> None:
        if isinstance(view, Mapping):
            name, keys, features, ttl_s = (
                view[part] for part in ("name", "keys", "features", "ttl_s")
            )
        else:
            name, keys, features, ttl_s = view.name, view.keys, view.features, view.ttl_s
        given = view.get("version") if isinstance(view, Mapping) else getattr(view, "version", "")
        self.version: str = given or ""
        self.table = online_tables.plain(project, name)
        self.keys = tuple(keys)
        self.features = tuple(getattr(item, "name", item) for item in features)
        self.ttl_us = None if ttl_s is None else round(ttl_s * 1e6)
        self._encode = wire.key_encoder(self.keys)

    def key_of(self, columns: Keys, row: int) -> bytes | None:
        values = [columns[key][row] for key in self.keys]
        for value in values:
            if value is None:
                return None
        return self._encode(values)  # type: ignore[arg-type]


# Feast may have overwritten a row of ours: then its whole seconds are the truth.
_EVENT_US = "CASE WHEN event_us / 1000000 = event_ts THEN event_us ELSE event_ts * 1000000 END"

_FEASTS_US = "event_ts * 1000000"
"""Of a table that Feast alone made."""
