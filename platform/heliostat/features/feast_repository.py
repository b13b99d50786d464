"""The same definitions in Feast's registry, so that Feast's own tools and clients see them.

Feast keeps definitions, registry and online layout; values are computed, joined and written by
this package. Importing Feast costs about 10 s of CPU, so only `apply` does it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from heliostat import telemetry
from heliostat.config import require
from heliostat.features import on_demand, stores
from heliostat.features.definitions import (
    EVENT_TIMESTAMP,
    FeatureService,
    FeatureView,
    OnDemandView,
)
from heliostat.features.redis_client import RedisAddress

_APPLIED = "applied.json"


def apply(
    services: Sequence[FeatureService],
    repository: Path,
    catalog_root: Path,
    online_db: Path | None = None,
    online_server: Mapping[str, Any] | None = None,
) -> bool:
    """Make Feast's registry hold exactly these services, with their views and entities.

    Writes ``feature_store.yaml``, so that ``feast`` works in the folder. Does nothing, and
    does not import Feast, if the definitions are those of the last time. Meant to run in a
    process of its own beside other work: ``python -c`` or a Ray task.

    Args:
        services: All of one project.
        repository: Folder of the Feast repository; made if absent.
        catalog_root: Folder of the views' tables.
        online_db: The online store's file; None takes ``online.db`` in the repository.
        online_server: The online store where it is a server, by `server_of`; None: it is the file.
            Definitions are applied without it, so its client and password are only for readers.

    Returns:
        Whether anything had to be done.

    Raises:
        ConfigError: No service, services of several projects, or two views of one name differ.
    """
    require(bool(services), "feast services", (), "must name at least one service")
    projects = sorted({service.project for service in services})
    require(len(projects) == 1, "feast services", projects, "must all be of one project")
    views = _views(services)
    online = online_server or {
        "type": "sqlite", "path": str((online_db or repository / "online.db").absolute())
    }  # fmt: skip
    config = _config(projects[0], repository, dict(online))
    digest = _digest(services, config, catalog_root)
    applied = repository / _APPLIED
    if applied.exists() and json.loads(applied.read_text(encoding="utf-8")) == {"digest": digest}:
        return False

    repository.mkdir(parents=True, exist_ok=True)
    # Feast reads YAML; JSON is YAML, and paths need no quoting rules of ours.
    _write(repository / "feature_store.yaml", json.dumps(config, indent=2) + "\n")
    _apply(services, views, config, catalog_root)
    _write(applied, json.dumps({"digest": digest}))
    telemetry.event("features.applied", project=projects[0], views=len(views), digest=digest)
    return True


def server_of(store: str) -> dict[str, Any] | None:
    """Give Feast's config of an online store that is a Redis server; None for any other.

    A password is not in it: Feast puts in the environment's ``HELIOSTAT_REDIS_PASSWORD``, which must
    hold no comma and no quotation mark.

    >>> server_of("redis://:secret@r:6379/0")["connection_string"]
    'r:6379,db=0,password=${HELIOSTAT_REDIS_PASSWORD}'
    """
    if not store.startswith(("redis://", "rediss://")):
        return None
    address = RedisAddress.parse(store)
    parts = [f"{address.host}:{address.port}", f"db={address.database}"]
    if address.user:
        parts.append(f"username={address.user}")
    if address.password:
        parts.append(f"password=${{{stores.REDIS_PASSWORD}}}")
    if address.tls:
        parts.append("ssl=true")
    return {"type": "redis", "connection_string": ",".join(parts)}


def _views(services: Sequence[FeatureService]) -> dict[str, FeatureView]:
    views: dict[str, FeatureView] = {}
    known: dict[str, FeatureView | OnDemandView] = {}
    for service in services:
        views.update((view.name, view) for view in service.views)
        for view in service.everything:
            require(
                known.setdefault(view.name, view) == view, f"view {view.name}", service.name,
                "must be one definition everywhere",
            )  # fmt: skip
    return views


def _config(project: str, repository: Path, online: dict[str, Any]) -> dict[str, Any]:
    folder = repository.absolute()
    return {
        "project": project,
        "provider": "local",
        "registry": {"registry_type": "sql", "path": f"sqlite:///{folder / 'registry.db'}"},
        "online_store": online,
        "offline_store": {"type": "heliostat.features.feast_offline.HeliostatOfflineStore"},
        "entity_key_serialization_version": 3,
    }


def _digest(services: Sequence[FeatureService], config: dict[str, Any], root: Path) -> str:
    content = {
        "services": [service.describe() for service in services],
        "words": [
            [view.owner, view.description, [item.description for item in view.features]]
            for service in services
            for view in service.everything
        ],
        "config": config,
        "tables": str(root.absolute()),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _apply(
    services: Sequence[FeatureService],
    views: dict[str, FeatureView],
    config: Mapping[str, Any],
    catalog_root: Path,
) -> None:
    os.environ.setdefault("FEAST_USAGE", "False")
    import feast
    from feast import types
    from feast.data_format import DeltaFormat

    dtypes = {"float64": types.Float64, "int64": types.Int64, "string": types.String}
    # A server holds what our writers put there; Feast would connect to it only to drop old views.
    online = config["online_store"] if config["online_store"]["type"] == "sqlite" else None
    store = feast.FeatureStore(config=feast.RepoConfig(**{**config, "online_store": online}))
    entities: dict[str, Any] = {}
    for view in views.values():
        for key in view.keys:
            kind = feast.ValueType.INT64 if key in view.integer_keys else feast.ValueType.STRING
            same = entities.setdefault(
                key, feast.Entity(name=key, join_keys=[key], value_type=kind)
            )
            require(
                same.value_type == kind, f"key {key}", view.name, "must be of one type everywhere"
            )
    feast_views = {
        view.name: feast.FeatureView(
            name=view.name,
            entities=[entities[key] for key in view.keys],
            ttl=None if view.ttl_s is None else timedelta(seconds=view.ttl_s),
            schema=[
                *(
                    feast.Field(
                        name=key, dtype=types.Int64 if key in view.integer_keys else types.String
                    )
                    for key in view.keys
                ),
                *(
                    feast.Field(
                        name=item.name, dtype=dtypes[item.dtype], description=item.description
                    )
                    for item in view.features
                ),
            ],
            source=feast.FileSource(
                name=view.table.replace("/", "_"),
                path=str((catalog_root / view.table).absolute()),
                file_format=DeltaFormat(),
                timestamp_field=EVENT_TIMESTAMP,
            ),
            description=view.description,
            owner=view.owner,
        )
        for view in views.values()
    }
    computed = {
        view.name: _on_demand(view, service, feast_views)
        for service in services
        for view in service.on_demand
    }
    feast_services = [
        feast.FeatureService(
            name=service.name,
            features=[
                *(feast_views[view.name] for view in service.views),
                *(computed[view.name] for view in service.on_demand),
            ],
        )
        for service in services
    ]
    wanted = [*entities.values(), *feast_views.values(), *computed.values(), *feast_services]
    names = {item.name for item in wanted}
    gone = [
        item
        for item in (
            *store.list_feature_services(), *store.list_on_demand_feature_views(),
            *store.list_feature_views(),
        )
        if item.name not in names
    ]  # fmt: skip
    store.apply(wanted, objects_to_delete=gone, partial=False)


def _on_demand(view: OnDemandView, service: FeatureService, stored: dict[str, Any]) -> Any:
    """The same function as Feast runs it: one row at a time, in Python."""
    import feast
    from feast import types
    from feast.on_demand_feature_view import OnDemandFeatureView
    from feast.transformation.python_transformation import PythonTransformation

    dtypes = {"float64": types.Float64, "int64": types.Int64, "string": types.String}
    sources: list[Any] = []
    for own in service.views:
        names = [item.name for item in own.features if item.name in view.inputs]
        if names:
            sources.append(stored[own.name][names])
    if view.requested:
        asked = [feast.Field(name=item.name, dtype=dtypes[item.dtype]) for item in view.requested]
        sources.append(feast.RequestSource(name=f"{view.name}_request", schema=asked))
    name, text = on_demand.standalone(
        view.source, f"on-demand view {view.name}", inputs=list(service.input_types(view)),
        features=[item.name for item in view.features],
    )  # fmt: skip
    scope: dict[str, Any] = {}
    exec(text, scope)  # noqa: S102 - our own text around a checked one
    return OnDemandFeatureView(
        name=view.name,
        sources=sources,
        schema=[
            feast.Field(name=item.name, dtype=dtypes[item.dtype], description=item.description)
            for item in view.features
        ],
        feature_transformation=PythonTransformation(scope[name], text, name=name),
        mode="python",
        description=view.description,
        owner=view.owner,
    )


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
