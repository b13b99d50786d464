"""Opens an online store by what a setting says: the platform's own file, or a server by URL."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from heliostat.config import require
from heliostat.features.online import OnlineReader, OnlineWriter
from heliostat.features.packed import PackedView
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


def open_reader(
    store: str, file: Path, project: str, views: Sequence[Any]
) -> OnlineReader | RedisReader:
    """Open a service's values for reading; connects to nothing yet.

    Args:
        store: ``file``, or ``redis://host:port/database``.
        file: The file, if it is one.
        project: Of the service.
        views: As a model package names them: with versions and types, if the store is a server.

    Raises:
        ConfigError: The store is neither, or a view does not say its version and types.
    """
    if store == FILE:
        return OnlineReader(file, project, views)
    packed = [_packed(project, view) for view in views]
    return RedisReader(RedisAddress.parse(store), packed)


def open_writer(store: str, file: Path, project: str) -> OnlineWriter | RedisWriter:
    """Open a project's values for writing; connects to nothing yet.

    Raises:
        ConfigError: The store is neither ``file`` nor a URL of Redis.
    """
    if store == FILE:
        return OnlineWriter(file, project)
    return RedisWriter(RedisAddress.parse(store), project)


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
