"""Queries of PostgreSQL, SQLite and DuckDB as sources: one consistent read, in chunks."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import polars as pl

from heliostat.config import require
from heliostat.data import typed_rows
from heliostat.data.read_once import ReadOnce
from heliostat.data.rows import Member
from heliostat.data.typed_rows import TypedRows
from heliostat.errors import ConfigError, Unavailable

CHUNK_ROWS = 50_000
"""Rows that one task checks."""


class _Cursor(Protocol):
    @property
    def description(self) -> Any: ...
    def fetchmany(self, size: int, /) -> Sequence[Sequence[Any]]: ...


class _Query(ReadOnce):
    """What the three share; each says how it connects and which errors are whose."""

    query: str
    chunk_rows: int

    def plan(self) -> list[Member]:
        """Ask for the columns.

        Raises:
            ConfigError: The query cannot be answered.
            Unavailable: The database does not answer, or refuses the user.
        """
        # The query is the reader's own SQL; the database's rights say what it may do.
        asked = f"SELECT * FROM ({self.query}) AS asked LIMIT 0"  # noqa: S608
        with self._answers(asked) as cursor:
            header = tuple(item[0] for item in cursor.description)
        return [Member(path=self._name(), header=header, size_bytes=0, first_line=1)]

    def read_chunks(self, member: Member, first: int) -> Iterator[tuple[int, bytes]]:  # noqa: ARG002
        """Yield the answer in chunks; memory holds one."""
        with self._answers(self.query) as cursor:
            names = [item[0] for item in cursor.description]
            number = 0
            while rows := cursor.fetchmany(self.chunk_rows):
                yield number, typed_rows.encode(_frame(names, rows))
                number += 1

    def parse(self, raw: bytes, member: Member) -> TypedRows:  # noqa: ARG002 - says its columns
        """Take a chunk apart."""
        return typed_rows.decode(raw)

    def _name(self) -> str:
        raise NotImplementedError

    def _answers(self, query: str) -> AbstractContextManager[_Cursor]:
        raise NotImplementedError

    def _require(self) -> None:
        require(bool(self.query.strip()), "source.query", self.query, "must be a SELECT")
        require(self.chunk_rows > 0, "source.chunk_rows", self.chunk_rows, "must be above 0")


@dataclass(frozen=True, kw_only=True)
class PostgresQuery(_Query):
    """A query of PostgreSQL, read by a server-side cursor.

    The password comes from where libpq looks: ``PGPASSWORD``, ``~/.pgpass`` or ``PGSERVICE``,
    in the environment of the Ray workers too.
    """

    url: str
    """``postgresql://user@host:port/database``, without a password."""

    query: str
    """A SELECT without ``;``."""

    chunk_rows: int = CHUNK_ROWS

    def __post_init__(self) -> None:
        require_without_password("source.url", self.url)
        self._require()

    def _name(self) -> str:
        return self.url

    @contextmanager
    def _answers(self, query: str) -> Iterator[_Cursor]:
        import psycopg

        try:
            with (
                psycopg.connect(self.url, connect_timeout=10) as connection,
                connection.cursor(name="heliostat") as cursor,
            ):
                cursor.execute(query)
                yield cursor
        except psycopg.OperationalError as error:
            raise Unavailable(self.url, _first_line(error)) from None
        except psycopg.Error as error:
            raise ConfigError(
                "source.query", self.query, "must be answered by the database",
                breaks=_first_line(error),
            ) from error  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _FileQuery(_Query):
    """A query of one database file; each says its client and which errors are whose."""

    path: str

    query: str
    """A SELECT without ``;``."""

    chunk_rows: int = CHUNK_ROWS

    def __post_init__(self) -> None:
        self._require()

    @property
    def paths(self) -> tuple[str, ...]:
        """The database."""
        return (self.path,)

    def _name(self) -> str:
        return self.path

    @contextmanager
    def _answers(self, query: str) -> Iterator[_Cursor]:
        require(Path(self.path).is_file(), "source.path", self.path, "must be a readable file")
        errors, busy = self._errors()
        try:
            with closing(self._connect()) as connection:
                yield connection.execute(query)
        except busy as error:
            raise Unavailable(self.path, _first_line(error)) from error
        except errors as error:
            raise ConfigError(
                "source.query", self.query, "must be answered by the database",
                breaks=_first_line(error),
            ) from error  # fmt: skip

    def _connect(self) -> Any:
        raise NotImplementedError

    def _errors(self) -> tuple[type[Exception], tuple[type[Exception], ...]]:
        """What the client raises, and of that what another try may mend."""
        raise NotImplementedError


class SqliteQuery(_FileQuery):
    """A query of an SQLite file, opened for reading only."""

    def _connect(self) -> Any:
        return sqlite3.connect(f"{Path(self.path).absolute().as_uri()}?mode=ro", uri=True)

    def _errors(self) -> tuple[type[Exception], tuple[type[Exception], ...]]:
        return sqlite3.Error, ()


class DuckDbQuery(_FileQuery):
    """A query of a DuckDB file, opened for reading only."""

    def _connect(self) -> Any:
        import duckdb

        return duckdb.connect(self.path, read_only=True)

    def _errors(self) -> tuple[type[Exception], tuple[type[Exception], ...]]:
        import duckdb

        return duckdb.Error, (duckdb.IOException,)


def require_without_password(where: str, url: str) -> None:
    """Refuse a URL that holds a password: recipes are printed and kept with runs.

    Raises:
        ConfigError: Shows the URL without it.

    >>> require_without_password("source.url", "postgresql://me:secret@db/x")
    Traceback (most recent call last):
    heliostat.errors.ConfigError: source.url = 'postgresql://me:***@db/x': must hold no password. \
Set PGPASSWORD or ~/.pgpass instead
    """
    parts = urlsplit(url)
    require(
        parts.scheme in ("postgresql", "postgres"), where, parts.scheme,
        "must be a postgresql:// URL",
    )  # fmt: skip
    secret = parts.password or ("password=" in parts.query)
    if secret:
        shown = url.replace(f":{parts.password}@", ":***@").split("?", maxsplit=1)[0]
        raise ConfigError(
            where, shown, "must hold no password",
            next_step="Set PGPASSWORD or ~/.pgpass instead",
        )  # fmt: skip


def _frame(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> pl.DataFrame:
    columns = zip(*rows, strict=True)
    return pl.DataFrame(
        [_series(name, list(values)) for name, values in zip(names, columns, strict=True)]
    )


def _series(name: str, values: list[Any]) -> pl.Series:
    """Keep the database's type; where a column mixes types, as SQLite may, each is its text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds and kinds <= {bytes, bytearray, memoryview}:
        texts = [None if value is None else bytes(value).hex() for value in values]
        return pl.Series(name, texts, dtype=pl.String)
    if len(kinds) <= 1 or kinds == {int, float}:
        try:
            return pl.Series(name, values, strict=len(kinds) <= 1)
        except (TypeError, OverflowError, pl.exceptions.PolarsError):
            pass
    return pl.Series(name, [None if v is None else str(v) for v in values], dtype=pl.String)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
