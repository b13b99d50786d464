"""Reads a config of Serve applications: fills in its values, completes it, checks our own ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heliostat.config import require
from heliostat.stack import ray_api

GATEWAY = "serve_apps.gateway:build"


def read(path: Path, repository: Path, variables: Mapping[str, str], port: int) -> dict[str, Any]:
    """Read a Serve config with its values filled in, completed and checked.

    Args:
        path: The file; a relative one is looked for in the repository.
        repository: Where the applications are imported from.
        variables: Those of `heliostat env`.
        port: Of the ingress.

    Raises:
        ConfigError: A name in it is not known, or an argument of our own applications is wrong.
    """
    values = {**variables, "SERVE_PORT": str(port), "REPOSITORY": str(repository)}
    config = complete(ray_api.load_serve_config(repository / path, values))
    for application in config.get("applications", []):
        _check(str(application.get("import_path")), application.get("args") or {})
    return config


def complete(config: Mapping[str, Any]) -> dict[str, Any]:
    """Tell the default gateway which models have a gateway of their own.

    Raises:
        ConfigError: Such a gateway is not mounted where its model's requests go.
    """
    found: dict[str, Any] = copy.deepcopy(dict(config))
    default, own = [], []
    for application in found.get("applications", []):
        if application.get("import_path") != GATEWAY:
            continue
        args = application.setdefault("args", {})
        model = args.get("model")
        if model is None:
            default.append(args)
            continue
        where = f"application {application.get('name')}: route_prefix"
        route = application.get("route_prefix")
        require(
            route == f"/v2/models/{model}", where, route,
            f"must be /v2/models/{model}, where the requests for its model go",
        )  # fmt: skip
        own.append(model)
    for args in default:
        elsewhere = sorted({*args.get("elsewhere", []), *own})
        if elsewhere:
            args["elsewhere"] = elsewhere
    return found


def _check(import_path: str, args: Mapping[str, Any]) -> None:
    """Read the ``args`` of one of our own applications as its replicas will."""
    from heliostat.control.application import ControlSettings
    from heliostat.serving.settings import GatewaySettings, VariantSettings, from_args

    if import_path in (GATEWAY, "serve_apps.vectors:build"):
        from_args(GatewaySettings, args)
    elif import_path == "serve_apps.variant:build":
        from_args(VariantSettings, args)
    elif import_path == "serve_apps.control:build":
        ControlSettings.from_args(args)
