"""Which table of the embedded store holds which version of a view.

Feast knows one table per view, ``<project>_<view>``: it holds the newest definition. When a view's
definition changes, the table of the one before is kept under ``<project>_<view>@<version>``, so that
models which were trained on it go on reading their own. Names are looked up inside the transaction
that uses them: a definition may change under a running gateway.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from heliostat.config import require_name

# No project and view can make a table of this name: it holds a space.
_VERSIONS = (
    'CREATE TABLE IF NOT EXISTS "heliostat versions" '
    "(name TEXT NOT NULL PRIMARY KEY, version TEXT NOT NULL)"
)


def plain(project: str, view: str) -> str:
    """Feast's name of a view's table."""
    require_name("view.name", view)
    return f"{project}_{view}"


def to_write(connection: sqlite3.Connection, project: str, view: str, version: str) -> str:
    """Name the table for a version of a view, made where there is none, in the open transaction.

    A version that was never seen becomes the newest definition; one that was is no news.
    """
    table = plain(project, view)
    connection.execute(_VERSIONS)
    (known,) = connection.execute(
        'SELECT max(version) FROM "heliostat versions" WHERE name = ?', (table,)
    ).fetchone()
    if known == version:
        return table
    kept = f"{table}@{version}"
    if known is not None:
        if _exists(connection, kept):
            return kept
        connection.execute(f'ALTER TABLE "{table}" RENAME TO "{table}@{known}"')
    connection.execute(
        'INSERT OR REPLACE INTO "heliostat versions" (name, version) VALUES (?, ?)',
        (table, version),
    )
    _make(connection, table)
    return table


def promote(connection: sqlite3.Connection, project: str, view: str, version: str) -> str:
    """Make a version the newest definition, also one that was before; return its table's name."""
    table = to_write(connection, project, view, version)
    newest = plain(project, view)
    if table == newest:
        return newest
    (known,) = connection.execute(
        'SELECT version FROM "heliostat versions" WHERE name = ?', (newest,)
    ).fetchone()
    connection.execute(f'ALTER TABLE "{newest}" RENAME TO "{newest}@{known}"')
    connection.execute(f'ALTER TABLE "{table}" RENAME TO "{newest}"')
    connection.execute(
        'UPDATE "heliostat versions" SET version = ? WHERE name = ?', (version, newest)
    )
    return newest


def to_read(
    connection: sqlite3.Connection, wanted: Sequence[tuple[str, str]]
) -> tuple[list[str], str | None]:
    """Name the tables of views, given as Feast's table and version; "" takes the newest.

    Returns:
        The tables, and the first one that holds no such version, or None.
    """
    known: dict[str, str] = {}
    if _exists(connection, "heliostat versions"):
        known = dict(connection.execute('SELECT name, version FROM "heliostat versions"'))
    found, missing = [], None
    for table, version in wanted:
        # A table of Feast's alone, or of before there were versions, holds what it holds.
        if not version or known.get(table, version) == version:
            found.append(table)
            continue
        found.append(f"{table}@{version}")
        if missing is None and not _exists(connection, found[-1]):
            missing = f"{table} of version {version}"
    return found, missing


def has_microseconds(connection: sqlite3.Connection, table: str) -> bool:
    """Whether a table has our column of event times, which one that Feast made has not."""
    return "event_us" in {row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')}


def _exists(connection: sqlite3.Connection, table: str) -> bool:
    query = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
    return connection.execute(query, (table,)).fetchone() is not None


def _make(connection: sqlite3.Connection, table: str) -> None:
    connection.execute(
        f'CREATE TABLE IF NOT EXISTS "{table}" (entity_key BLOB, feature_name TEXT, value BLOB, '
        "value_text TEXT, vector_value BLOB, event_ts timestamp, created_ts timestamp, "
        "event_us INTEGER, PRIMARY KEY (entity_key, feature_name))"
    )
    if not has_microseconds(connection, table):
        connection.execute(f'ALTER TABLE "{table}" ADD COLUMN event_us INTEGER')
