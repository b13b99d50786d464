"""Makes the real gateway and variant inside a Serve replica, from their settings alone."""

from __future__ import annotations

import os
import secrets
import time
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING

from heliostat import telemetry
from heliostat.access.keys import KeyFile
from heliostat.access.tokens import TokenChecker, read_issuers
from heliostat.config import require
from heliostat.features.feast_project import FeastProject
from heliostat.features.feast_services import is_owned
from heliostat.features.redis_client import RedisAddress
from heliostat.serving.admission import Door
from heliostat.serving.forward import HttpForwarder
from heliostat.serving.gateway import Gateway, Outside
from heliostat.serving.listening import is_reachable
from heliostat.serving.metrics import RaySink
from heliostat.serving.neighbours import Neighbours
from heliostat.serving.plane import PlaneRates, PlaneSource
from heliostat.serving.redis_rates import RedisRates
from heliostat.serving.settings import GatewaySettings, VariantSettings
from heliostat.serving.sharing import RateSource
from heliostat.serving.variant import VariantApp

if TYPE_CHECKING:
    from heliostat.registry.package import FeatureServiceReference
    from heliostat.serving.online import FeatureReader

_DIRECT_PORTS = range(30_000, 31_001)
"""Where Ray Serve lets a replica listen for the ingress."""


def gateway(settings: GatewaySettings) -> Gateway:
    """Build the gateway of this process, with an id of its own."""
    telemetry.configure("gateway")
    online_db = settings.layout.online_db
    feast = None
    if settings.feast_repository is not None:
        feast = FeastProject(Path(settings.feast_repository))
        # Before any model needs it: it takes many seconds until it answers.
        feast.process.start()

    def open_reader(reference: FeatureServiceReference) -> FeatureReader:
        from heliostat.features import stores

        if is_owned(reference.views):
            require(
                feast is not None, "args.feast_repository", None,
                f"must say where Feast's project {reference.project} lies",
            )  # fmt: skip
            assert feast is not None
            return feast.open_reader(reference.project, reference.name, reference.views)
        store = settings.online_store
        if store == stores.FILE:
            store = stores.of_environment(os.environ)
        reader: FeatureReader = stores.open_reader(
            store, online_db, reference.project, reference.views
        )
        return reader

    gateway_id = secrets.token_hex(6)
    outside = Outside(
        policy_source=PlaneSource(gateway_id),
        forwarder=HttpForwarder(),
        open_reader=open_reader,
        door=_door(settings),
        rates=_rates(settings, gateway_id),
        sink=RaySink(),
        is_feast_ready=None if feast is None else lambda: feast.process.is_ready,
    )
    return Gateway(settings, outside, gateway_id=gateway_id)


def neighbours(settings: GatewaySettings) -> Neighbours:
    """Build the application that searches vector indexes, behind the gateway's keys."""
    telemetry.configure("neighbours")
    return Neighbours(settings.layout.root / "vectors", _door(settings))


def variant(settings: VariantSettings) -> VariantApp:
    """Build the application of one version."""
    telemetry.configure(f"variant-{settings.model}-{settings.version}")
    return VariantApp(settings)


def _rates(settings: GatewaySettings, gateway_id: str) -> RateSource:
    if settings.rate_store == "plane":
        return PlaneRates(gateway_id)
    return RedisRates(RedisAddress.parse(settings.rate_store), gateway_id)


def _door(settings: GatewaySettings) -> Door:
    port = int(urllib.parse.urlsplit(settings.endpoint).port or 80)
    return Door(
        KeyFile(settings.layout.keys, time.time),
        TokenChecker(read_issuers(settings.layout.keys / "issuers.json")),
        mode=settings.admission,
        insecure=settings.insecure,
        is_reachable=lambda: is_reachable(port, _DIRECT_PORTS),
        # As many as there may be: before rates are divided a share must not be too large.
        num_replicas=settings.max_replicas or settings.num_replicas,
        clock=time.time,
        timer=time.perf_counter,
    )
