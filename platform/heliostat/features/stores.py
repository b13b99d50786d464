"""Opens an online store by what a setting says: the platform's own file, or a server by URL."""

from __future__ import annotations

import importlib.util
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heliostat.config import require
from heliostat.errors import ConfigError
from heliostat.features.feast_services import is_owned
from heliostat.features.online import OnlineReader, OnlineWriter
from heliostat.features.packed import PackedView
from heliostat.features.postgres_store import PostgresReader, PostgresWriter
from heliostat.features.redis_client import RedisAddress
from heliostat.features.redis_store import RedisReader, RedisWriter

FILE = "file"
ONLINE_STORE = "HELIOSTAT_ONLINE_STORE"
REDIS_PASSWORD = "HELIOSTAT_REDIS_PASSWORD"  # noqa: S105 - a variable's name


def of_environment(environment: Mapping[str, str]) -> str:
    """Say which store ``HELIOSTAT_ONLINE_STORE`` names; ``file`` where it is not set.

    The password may come by itself in ``HELIOSTAT_REDIS_PASSWORD``, with any character.

    >>> of_environment({"HELIOSTAT_ONLINE_STORE": "redis://r:6379/0",
    ...                 "HELIOSTAT_REDIS_PASSWORD": "p@ss"})
    'redis://:p%40ss@r:6379/0'
    """
    store = environment.get(ONLINE_STORE) or FILE
    password = environment.get(REDIS_PASSWORD)
    if store == FILE or not password:
        return store
    parts = urllib.parse.urlsplit(store)
    require(parts.password is None, ONLINE_STORE, "...",
            f"must hold no password where {REDIS_PASSWORD} is set")  # fmt: skip
    quoted = urllib.parse.quote(password, safe="")
    user = parts.username or ""
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{user}:{quoted}@{host}").geturl()


Reader = OnlineReader | RedisReader | PostgresReader
Writer = OnlineWriter | RedisWriter | PostgresWriter

_POSTGRES = ("postgresql://", "postgres://")


@dataclass(frozen=True, kw_only=True, slots=True)
class Store:
    """An online store as tasks are told of it."""

    where: str
    """``file``, or a URL."""

    file: Path
    project: str

    def open(self) -> Writer:
        """Open a writer; it connects at its first write."""
        return open_writer(self.where, self.file, self.project)


def open_reader(store: str, file: Path, project: str, views: Sequence[Any]) -> Reader:
    """Open a service's values for reading; connects to nothing yet.

    Args:
        store: ``file``, ``redis://host:port/database`` or ``postgresql://host:port/database``.
        file: The file, if it is one.
        project: Of the service.
        views: As a model package names them: with versions and types, if the store is a server.

    Raises:
        ConfigError: The store is none of them, or a view does not say its version and types.
    """
    require(
        not is_owned(views), "feature service", project,
        "must be of this platform; a Feast project brings these values online, and only a gateway "
        "that is told of it reads them",
    )  # fmt: skip
    if store == FILE:
        return OnlineReader(file, project, views)
    packed = [_packed(project, view) for view in views]
    if store.startswith(_POSTGRES):
        _require_client()
        return PostgresReader(store, packed)
    return RedisReader(RedisAddress.parse(store), packed)


def open_writer(store: str, file: Path, project: str) -> Writer:
    """Open a project's values for writing; connects to nothing yet.

    Raises:
        ConfigError: The store is neither ``file`` nor a URL of Redis or PostgreSQL.
    """
    if store == FILE:
        return OnlineWriter(file, project)
    if store.startswith(_POSTGRES):
        _require_client()
        return PostgresWriter(store, project)
    return RedisWriter(RedisAddress.parse(store), project)


def reader_of(writer: Writer, project: str, views: Sequence[Any]) -> Reader:
    """Open for reading what a writer writes; see `open_reader`."""
    if isinstance(writer, OnlineWriter):
        return OnlineReader(writer.path, project, views)
    packed = [_packed(project, view) for view in views]
    if isinstance(writer, RedisWriter):
        return RedisReader(writer.address, packed)
    return PostgresReader(writer.url, packed)


def _require_client() -> None:
    if importlib.util.find_spec("psycopg") is None:
        raise ConfigError(
            "online store", "postgresql", "needs its client",
            next_step="Install it: pip install 'heliostat[postgres]'",
        )  # fmt: skip


def _packed(project: str, view: Any) -> PackedView:
    require(
        bool(view.version) and len(view.dtypes) == len(view.features), f"view {view.name}.version",
        view.version, "must be in the model's package to be read from a server",
        breaks="the package was made before views had versions: register the model again",
    )  # fmt: skip
    return PackedView(
        project=project,
        name=view.name,
        version=view.version,
        keys=tuple(view.keys),
        features=tuple(view.features),
        dtypes=tuple(view.dtypes),
        ttl_us=None if view.ttl_s is None else round(view.ttl_s * 1e6),
    )
