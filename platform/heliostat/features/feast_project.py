"""A Feast project whose own tools bring values online: how each of its services is read here.

By our own reader where it can: the store is SQLite or Redis and every type is one that
`heliostat.features.wire` decodes. By Feast's, in a process of its own, where it cannot.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from heliostat.config import require
from heliostat.errors import ConfigError
from heliostat.features import wire
from heliostat.features.feast_reader import FeastProcess, FeastReader
from heliostat.features.lookups import HashView
from heliostat.features.online import OnlineReader
from heliostat.features.redis_client import RedisAddress
from heliostat.features.redis_store import RedisHashReader

_KEYS_VERSION = 3


class FeastProject:
    """Opens the services of one project for reading."""

    def __init__(self, repository: Path, process: FeastProcess | None = None) -> None:
        """Take the folder of its ``feature_store.yaml``; touches no disk, starts nothing."""
        self.repository = repository
        self.process = process or FeastProcess(repository)

    def open_reader(
        self, project: str, service: str, views: Sequence[Any]
    ) -> OnlineReader | RedisHashReader | FeastReader:
        """Open a service's values for reading.

        Args:
            project: Of the service.
            service: Its name.
            views: As `heliostat.features.feast_services.describe` and a model package name them.

        Raises:
            ConfigError: There is no project in the folder, or another one.
        """
        config = self._config()
        require(
            config.get("project") == project, f"{self.repository}: project", config.get("project"),
            f"must be {project}, which the model was trained on",
        )  # fmt: skip
        if all(dtype in wire.DECODED for view in views for dtype in view.dtypes):
            reader = self._own(config, project, views)
            if reader is not None:
                return reader
        self.process.start()
        return FeastReader(self.process, service, views)

    def _own(
        self, config: Mapping[str, Any], project: str, views: Sequence[Any]
    ) -> OnlineReader | RedisHashReader | None:
        """Our reader of the project's store, if it is one that we read."""
        if config.get("entity_key_serialization_version", _KEYS_VERSION) != _KEYS_VERSION:
            return None
        store = config.get("online_store", "sqlite")
        parts: Mapping[str, Any] = {"type": store} if isinstance(store, str) else store
        if parts.get("type", "sqlite") == "sqlite":
            # Joined to an absolute path it is that path.
            return OnlineReader(
                self.repository / parts.get("path", "data/online.db"), project, views
            )
        address = redis_of(parts)
        return None if address is None else RedisHashReader(address, _hashes(project, views))

    def _config(self) -> Mapping[str, Any]:
        import yaml

        path = self.repository / "feature_store.yaml"
        try:
            found = yaml.safe_load(os.path.expandvars(path.read_text(encoding="utf-8")))
        except (OSError, yaml.YAMLError) as error:
            raise ConfigError(
                "args.feast_repository", str(self.repository), "must hold a feature_store.yaml",
                breaks=str(error)[:200],
            ) from error  # fmt: skip
        require(isinstance(found, dict), str(path), type(found).__name__, "must be a mapping")
        return dict(found)


def _hashes(project: str, views: Sequence[Any]) -> list[HashView]:
    return [
        HashView(
            project=project, name=view.name, keys=tuple(view.keys), features=tuple(view.features),
            ttl_us=None if view.ttl_s is None else round(view.ttl_s * 1e6),
        )
        for view in views
    ]  # fmt: skip


def redis_of(store: Mapping[str, Any]) -> RedisAddress | None:
    """Where a store's single Redis listens; None if it is another store, or more is said of it.

    >>> print(redis_of({"type": "redis", "connection_string": "redis:6379,db=2"}))
    redis://redis:6379/2
    """
    if store.get("type") != "redis" or store.get("redis_type", "redis") != "redis":
        return None
    parts = str(store.get("connection_string", "localhost:6379")).split(",")
    nodes = [part for part in parts if "=" not in part]
    told = dict(part.split("=", 1) for part in parts if "=" in part)
    if len(nodes) != 1 or set(told) - {"db", "username", "password", "ssl"}:
        return None
    host, _, port = nodes[0].partition(":")
    return RedisAddress(
        host=host, port=int(port or 6379), database=int(told.get("db", 0)),
        user=told.get("username", ""), password=told.get("password", "").strip('"'),
        tls=told.get("ssl", "false").lower() == "true",
    )  # fmt: skip
