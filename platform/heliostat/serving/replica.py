"""Makes the real gateway and variant inside a Serve replica, from their settings alone."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from heliostat import telemetry
from heliostat.serving.forward import HttpForwarder
from heliostat.serving.gateway import Gateway
from heliostat.serving.plane import PlaneSource
from heliostat.serving.settings import GatewaySettings, VariantSettings
from heliostat.serving.variant import VariantApp

if TYPE_CHECKING:
    from heliostat.registry.package import FeatureServiceReference
    from heliostat.serving.versions import FeatureReader


def gateway(settings: GatewaySettings) -> Gateway:
    """Build the gateway of this process, with an id of its own."""
    telemetry.configure("gateway")
    online_db = settings.layout.online_db

    def open_reader(reference: FeatureServiceReference) -> FeatureReader:
        from heliostat.features.online import OnlineReader

        reader: FeatureReader = OnlineReader(online_db, reference.project, reference.views)
        return reader

    gateway_id = secrets.token_hex(6)
    return Gateway(
        settings,
        policy_source=PlaneSource(gateway_id),
        forwarder=HttpForwarder(),
        open_reader=open_reader,
        gateway_id=gateway_id,
    )


def variant(settings: VariantSettings) -> VariantApp:
    """Build the application of one version."""
    telemetry.configure(f"variant-{settings.model}-{settings.version}")
    return VariantApp(settings)
