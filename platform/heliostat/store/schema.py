"""The tables of the state database, and how it is opened so that a kill loses nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import sqlalchemy as sa

BUSY_TIMEOUT_S = 10.0
"""How long a writer waits for another one before it gives up."""

_WRITERS = 7_143_001
"""PostgreSQL's advisory lock that writers take in turn, as SQLite's one writer does."""

metadata = sa.MetaData()

events = sa.Table(
    "events",
    metadata,
    sa.Column("stream", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("idempotency_key", sa.Text),
    sa.Column("previous_hash", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.UniqueConstraint("stream", "idempotency_key"),
)

heads = sa.Table(
    "stream_heads",
    metadata,
    sa.Column("stream", sa.Text, primary_key=True),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("token", sa.Integer, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
)

outcomes = sa.Table(
    "outcomes",
    metadata,
    sa.Column("model", sa.Text, primary_key=True),
    sa.Column("outcome_id", sa.Text, primary_key=True),
    sa.Column("unit", sa.Text, nullable=False),
    sa.Column("metric", sa.Text, nullable=False),
    sa.Column("value", sa.Float, nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Index("outcomes_by_metric", "model", "metric", "unit"),
)

stage_results = sa.Table(
    "stage_results",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("result", sa.Text, nullable=False),
    sa.Column("at", sa.Text, nullable=False),
)


class Database:
    """One state database; opened at first use, safe for threads and for several processes."""

    write_hook: ClassVar[Callable[[str], None] | None] = None
    """Called with "before" and "after" around every durable write of this process.

    Every write passes here, so that a test which kills the process at each call leaves none out.
    """

    def __init__(self, url_or_path: str | Path) -> None:
        """Remember where the database is; touches no disk.

        Args:
            url_or_path: A path of an SQLite file, or an SQLAlchemy URL.
        """
        text = str(url_or_path)
        self.url = sa.make_url(text) if "://" in text else sa.URL.create("sqlite", database=text)
        self._engine: sa.Engine | None = None

    @contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """Open a transaction that no other writer can interleave with; commits at the end."""
        hook = Database.write_hook
        if hook is not None:
            hook("before")
        with self._open().begin() as connection:
            if self.url.get_backend_name() == "postgresql":
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_WRITERS)))
            yield connection
        if hook is not None:
            hook("after")

    def read(self, statement: sa.Select[Any]) -> list[sa.Row[Any]]:
        """Run one query on a consistent snapshot."""
        with self._open().connect().execution_options(reading=True) as connection:
            return list(connection.execute(statement))

    def close(self) -> None:
        """Close all connections; the next use opens the database again."""
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    def _open(self) -> sa.Engine:
        if self._engine is None:
            # A server that was restarted leaves dead connections, each good for one failure.
            engine = sa.create_engine(self.url, pool_pre_ping=True)
            if self.url.get_backend_name() == "sqlite":
                _prepare_sqlite(engine)
            with engine.begin() as connection:
                if self.url.get_backend_name() == "postgresql":
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_WRITERS)))
                metadata.create_all(connection)
            self._engine = engine
        return self._engine


def _prepare_sqlite(engine: sa.Engine) -> None:
    @sa.event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        # The driver's own BEGIN comes too late for "read, then write" in one transaction.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:
        reading = connection.get_execution_options().get("reading")
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
