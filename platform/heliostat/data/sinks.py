"""Where a version of a table is copied to: all of it or nothing."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from heliostat.config import require
from heliostat.data import told
from heliostat.data.origins import files_digest
from heliostat.data.sql_sources import require_without_password
from heliostat.errors import Unavailable
from heliostat.lineage.events import Node

if TYPE_CHECKING:
    import polars as pl

    from heliostat.data.tables import Catalog

FileFormat = Literal["csv", "json", "parquet"]


class Sink(Protocol):
    """A place that takes rows whole."""

    def write(self, rows: pl.DataFrame) -> None:
        """Replace what is there by these rows; readers see the old ones or the new ones."""

    def node(self, run_id: str) -> Node:
        """Name what was written, for lineage: a file by its content, else by who wrote it."""


def copy(catalog: Catalog, name: str, sink: Sink, *, version: int | None = None) -> int:
    """Copy a version (the newest if None) and return how many rows it has; lineage is told."""
    chosen = catalog.version(name) if version is None else version
    rows = catalog.read(name, chosen)
    sink.write(rows)
    assert chosen is not None  # `read` has refused a table that does not exist
    told.copied(catalog, name, chosen, sink)
    return rows.height


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSink:
    """One local file, replaced in one step; overrides `Sink`."""

    path: str

    kind: FileFormat
    """``json`` has one object per line."""

    def write(self, rows: pl.DataFrame) -> None:
        """Write beside the file, then take its place."""
        target = Path(self.path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        if self.kind == "csv":
            rows.write_csv(temporary)
        elif self.kind == "json":
            rows.write_ndjson(temporary)
        else:
            rows.write_parquet(temporary)
        temporary.replace(target)

    def node(self, run_id: str) -> Node:  # noqa: ARG002 - as every sink
        """Name the file by its content: a table that is ingested from it goes on from here."""
        return Node(kind="file", name=self.path, version=files_digest([self.path]))


@dataclass(frozen=True, kw_only=True, slots=True)
class _TableInFile:
    """A table of a database that is one file."""

    path: str
    table: str

    def node(self, run_id: str) -> Node:
        """Name the table."""
        return Node(kind="sink", name=f"{self.path}/{self.table}", version=run_id)


@dataclass(frozen=True, kw_only=True, slots=True)
class SqliteSink(_TableInFile):
    """A table of an SQLite file, replaced in one transaction; overrides `Sink`."""

    def write(self, rows: pl.DataFrame) -> None:
        """Drop, create and fill the table."""
        texts = rows.cast({name: str_type() for name in _moments(rows)})
        columns = ", ".join(f"{_quoted(n)} {_sqlite_type(k)}" for n, k in texts.schema.items())
        marks = ", ".join("?" * rows.width)
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"DROP TABLE IF EXISTS {_quoted(self.table)}")
            connection.execute(f"CREATE TABLE {_quoted(self.table)} ({columns})")
            connection.executemany(
                f"INSERT INTO {_quoted(self.table)} VALUES ({marks})",  # noqa: S608 - quoted
                texts.iter_rows(),
            )
            connection.execute("COMMIT")


@dataclass(frozen=True, kw_only=True, slots=True)
class DuckDbSink(_TableInFile):
    """A table of a DuckDB file, replaced in one transaction; overrides `Sink`."""

    def write(self, rows: pl.DataFrame) -> None:
        """Replace the table."""
        import duckdb

        with closing(duckdb.connect(self.path)) as connection:
            connection.register("given_rows", rows.to_arrow())
            connection.execute(
                f"CREATE OR REPLACE TABLE {_quoted(self.table)} AS SELECT * FROM given_rows"  # noqa: S608
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PostgresSink:
    """A table of PostgreSQL, replaced in one transaction; overrides `Sink`."""

    url: str
    """Without a password; libpq finds it."""

    table: str

    def __post_init__(self) -> None:
        require_without_password("sink.url", self.url)
        require(bool(self.table), "sink.table", self.table, "must be named")

    def write(self, rows: pl.DataFrame) -> None:
        """Drop, create and fill the table by COPY."""
        import psycopg
        from psycopg import sql

        name = sql.Identifier(*self.table.split("."))
        columns = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(_postgres_type(kind)))
            for column, kind in rows.schema.items()
        )
        try:
            with psycopg.connect(self.url, connect_timeout=10) as connection:
                connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(name))
                connection.execute(sql.SQL("CREATE TABLE {} ({})").format(name, columns))
                copied = connection.cursor().copy(sql.SQL("COPY {} FROM STDIN").format(name))
                with copied as into:
                    for row in rows.iter_rows():
                        into.write_row(row)
        except psycopg.OperationalError as error:
            raise Unavailable(self.url, str(error).strip().splitlines()[0]) from None

    def node(self, run_id: str) -> Node:
        """Name the table."""
        return Node(kind="sink", name=f"{self.url}/{self.table}", version=run_id)


def str_type() -> pl.DataType:
    """Text, for databases that have no type for a moment."""
    import polars as pl

    return pl.String()


def _moments(rows: pl.DataFrame) -> list[str]:
    return [name for name, kind in rows.schema.items() if kind.is_temporal()]


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _sqlite_type(kind: pl.DataType) -> str:
    if kind.is_integer() or str(kind) == "Boolean":
        return "INTEGER"
    return "REAL" if kind.is_float() else "TEXT"


def _postgres_type(kind: pl.DataType) -> str:
    if kind.is_integer():
        return "bigint"
    if kind.is_float():
        return "double precision"
    text = str(kind)
    if text == "Boolean":
        return "boolean"
    if text == "Date":
        return "date"
    return "timestamptz" if text.startswith("Datetime") else "text"
