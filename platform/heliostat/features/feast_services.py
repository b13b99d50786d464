"""A feature service of any Feast project, in the plain words that a model package stores.

For models whose features a Feast project holds, and not this platform: Feast's own tools bring the
values online, a gateway only reads them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.config import require
from heliostat.errors import ConfigError
from heliostat.features.definitions import OnDemandView

if TYPE_CHECKING:
    import feast

OWNED = "feast:"
"""What the version of a view begins with whose values Feast's own tools write."""

_PLAIN = {
    "Float64": "float64", "Float32": "float32", "Int64": "int64", "Int32": "int32", "Bool": "bool",
    "String": "string",
}  # fmt: skip

Default = float | int | str | None


def is_owned(views: Sequence[Any]) -> bool:
    """Say whether these views, as a package names them, are a Feast project's."""
    return any(str(getattr(view, "version", "")).startswith(OWNED) for view in views)


def describe(
    repository: Path,
    service: str,
    *,
    defaults: Mapping[str, Mapping[str, Default]] | None = None,
    on_demand: Sequence[OnDemandView] = (),
) -> dict[str, Any]:
    """Describe a service of the project in this folder, as `FeatureService.describe` does.

    Imports Feast, which takes seconds.

    Args:
        repository: Folder of its ``feature_store.yaml``.
        service: Its name in the registry.
        defaults: By view, what a gateway answers with while the values cannot be read.
        on_demand: Computed from the service's features and what a request carries.

    Raises:
        ConfigError: There is no such service, or it holds what no model can be served with: an
            on-demand view of Feast's, which is a pickle in the registry; an alias; a view
            without keys; two features of one name.
    """
    return described(opened(repository), service, defaults=defaults, on_demand=on_demand)


def opened(repository: Path) -> feast.FeatureStore:
    """Open the project in a folder.

    Raises:
        ConfigError: The folder holds none that can be opened.
    """
    os.environ.setdefault("FEAST_USAGE", "False")
    import feast

    try:
        return feast.FeatureStore(repo_path=str(repository))
    except Exception as error:
        raise ConfigError(
            "feast repository", str(repository), "must hold a feature_store.yaml that Feast opens",
            breaks=str(error)[:300],
        ) from error  # fmt: skip


def described(
    store: feast.FeatureStore,
    service: str,
    *,
    defaults: Mapping[str, Mapping[str, Default]] | None = None,
    on_demand: Sequence[OnDemandView] = (),
) -> dict[str, Any]:
    """Describe a service of an open project; see `describe`."""
    from feast.errors import FeatureServiceNotFoundException

    where = f"feast service {service}"
    try:
        found = store.get_feature_service(service, allow_cache=True)
    except FeatureServiceNotFoundException as error:
        raise ConfigError(where, store.project, "must be in this project's registry") from error
    views = [
        _view(store, projection, where, (defaults or {}).get(projection.name))
        for projection in found.feature_view_projections
    ]
    names = [name for view in views for name in view["features"]]
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, f"{where}.features", tuple(twice), "must each have an own name")
    plain: dict[str, Any] = {
        "project": store.project,
        "name": service,
        "digest": _digest([store.project, service, [view["version"] for view in views]]),
        "views": views,
        "on_demand": [_computed(view, views) for view in on_demand],
    }
    return plain


def _view(
    store: feast.FeatureStore, projection: Any, where: str, defaults: Mapping[str, Default] | None
) -> dict[str, Any]:
    from feast.errors import FeatureViewNotFoundException
    from feast.feature_view import DUMMY_ENTITY_ID

    name = projection.name
    require(
        not projection.name_alias and not projection.join_key_map, f"{where}.views", name,
        "must be under its own name and keys",
    )  # fmt: skip
    try:
        view = store.get_feature_view(name, allow_registry_cache=True)
    except FeatureViewNotFoundException as error:
        raise ConfigError(
            f"{where}.views", name, "must be a feature view",
            breaks="an on-demand view is a pickle in Feast's registry, which no gateway opens",
            next_step="Leave it out of the service, and give an OnDemandView instead",
        ) from error  # fmt: skip
    keys = {item.name: str(item.dtype) for item in view.entity_columns}
    require(bool(keys) and DUMMY_ENTITY_ID not in keys, f"{where}.views", name, "must have a key")
    for key, kind in keys.items():
        require(
            kind in ("String", "Int64"), f"{where}: key {key}", kind,
            "must be text or a whole number of 64 bits",
        )  # fmt: skip
    features = {item.name: str(item.dtype) for item in projection.features}
    ttl_s = view.ttl.total_seconds() if view.ttl else None
    return {
        "name": name,
        "keys": tuple(keys),
        "features": tuple(features),
        "ttl_s": ttl_s or None,
        "version": OWNED + _digest([store.project, name, keys, features, ttl_s]),
        "dtypes": tuple(_PLAIN.get(kind, kind) for kind in features.values()),
        "defaults": None if defaults is None else tuple(defaults.items()),
    }


def _computed(view: OnDemandView, views: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    kinds = {
        name: dtype
        for own in views
        for name, dtype in zip(own["features"], own["dtypes"], strict=True)
    }
    for name in view.inputs:
        require(
            name in kinds, f"on-demand view {view.name}.inputs", name,
            "must be a feature of a view of the service",
        )  # fmt: skip
    return {
        "name": view.name,
        "inputs": (
            *((name, kinds[name]) for name in view.inputs),
            *((item.name, item.dtype) for item in view.requested),
        ),
        "requested": tuple(item.name for item in view.requested),
        "features": tuple((item.name, item.dtype) for item in view.features),
        "source": view.source,
        "version": view.digest(),
    }


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
