"""Nearest neighbours at ``/vectors/<table>``, from the indexes that ``jobs/embed.py`` builds."""

from __future__ import annotations

from typing import Any

from heliostat.serving import deployments


def build(args: dict[str, Any]) -> Any:
    """Build the application; ``args`` are the fields of `heliostat.serving.settings.GatewaySettings`."""
    return deployments.neighbours_application(args)
