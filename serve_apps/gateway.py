"""The gateway at ``/``: the one address that clients know."""

from __future__ import annotations

from typing import Any

from heliostat.serving import deployments


def build(args: dict[str, Any]) -> Any:
    """Build the application; ``args`` are the fields of `heliostat.serving.settings.GatewaySettings`."""
    return deployments.gateway_application(args)
