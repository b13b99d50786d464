"""Nobody is served from feature values that differ from those that models were trained on."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from types import SimpleNamespace

from heliostat.data.tables import Catalog
from heliostat.features import parity
from heliostat.features.definitions import FeatureService
from heliostat.features.stores import Store
from heliostat.pipeline.connection import Connection
from heliostat.pipeline.progress import Reporter
from heliostat.pipeline.versions import Registered
from heliostat.registry.package import PackageDescription


def of_service(service: FeatureService) -> list[parity.View]:
    """The views of a service, as parity wants them."""
    return [SimpleNamespace(**view) for view in service.describe()["views"]]


def of_packages(versions: Iterable[Registered]) -> list[parity.View]:
    """The views that verified packages read, each version of a view once."""
    found: dict[tuple[str, str], parity.View] = {}
    for registered in versions:
        reference = PackageDescription.read(registered.path).features
        for view in () if reference is None else reference.views:
            found[view.name, view.version] = view
    return list(found.values())


def require_parity(
    views: list[parity.View],
    catalog: Catalog,
    connection: Connection,
    *,
    project: str,
    versions: Mapping[str, int],
    at: datetime,
    stage: str,
    reporter: Reporter,
) -> None:
    """Compare online, offline and a plain loop on a sample, and say so.

    Args:
        views: What is, or will be, read online.
        catalog: Where their tables are.
        connection: Says which online store is read.
        project: Of the views.
        versions: Version of each view's table by view name; those that were brought online.
        at: The moment up to which the store was filled.
        stage: For whom this is.
        reporter: Told the figures.

    Raises:
        GateRefused: They differ, or nothing could be compared.
    """
    began = time.monotonic()
    store = Store(where=connection.online_store, file=connection.home.online_db, project=project)
    report = parity.check(views, catalog, store, at=at, versions=versions)
    reporter.line(stage, f"feature parity: {report}, in {time.monotonic() - began:.1f} s")
    report.require_equal(stage)
