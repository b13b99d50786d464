"""Gateway and controller with home and addresses out of the environment, for serve_apps/cluster.yaml.

A RayService's config is one text for every cluster, so it cannot hold what differs between them.
"""

from __future__ import annotations

import os
from typing import Any

from heliostat.control.application import application
from heliostat.serving import deployments


def gateway(args: dict[str, Any]) -> Any:
    """Build the gateway; ``args`` win over ``HELIOSTAT_HOME`` and ``HELIOSTAT_ENDPOINT``."""
    return deployments.gateway_application({**_place(), **args})


def control(args: dict[str, Any]) -> Any:
    """Build the controller; as `gateway`, and ``MLFLOW_TRACKING_URI``."""
    more = {}
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        more["tracking_uri"] = uri
    return application({**_place(), **more, **args})


def _place() -> dict[str, Any]:
    found = {}
    if home := os.environ.get("HELIOSTAT_HOME"):
        found["home"] = home
    if endpoint := os.environ.get("HELIOSTAT_ENDPOINT"):
        found["endpoint"] = endpoint
    return found
