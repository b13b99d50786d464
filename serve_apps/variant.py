"""One model version at ``/variants/<model>/<version>``, for gateways only.

The rollout controller starts these itself; by hand only to look at one version.
"""

from __future__ import annotations

from typing import Any

from heliostat.serving import deployments


def build(args: dict[str, Any]) -> Any:
    """Build the application; ``args`` are the fields of `heliostat.serving.settings.VariantSettings`."""
    return deployments.variant_application(args)
