"""Bring a recipe's features to an online store by Ray tasks: what ``jobs/materialize.py`` runs."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path

from heliostat.config import require
from heliostat.data.tables import Catalog
from heliostat.errors import ConfigError
from heliostat.features.definitions import FeatureService
from heliostat.features.materialize import MaterializeReport
from heliostat.features.materialize_ray import last_end, materialize_on_ray
from heliostat.features.stores import Store
from heliostat.lineage.events import Lineage, Node
from heliostat.pipeline import entry, examples, tables
from heliostat.pipeline.connection import Connection
from heliostat.pipeline.progress import Reporter
from heliostat.pipeline.recipe import PipelineRecipe

STAGE = "materialize"


def main() -> None:
    """Read the command line, bring the values, and leave the process with the right exit code.

    Without ``--online`` the platform's own file is made anew, as of the start of the replay.
    """
    parser = entry.recipe_parser("Build the feature views, and bring their values online.")
    parser.add_argument("--online", metavar="file|URL", help="bring them here, by Ray tasks")
    parser.add_argument(
        "--until", metavar="TIME", help="with --online: up to this moment; default: now"
    )
    parser.add_argument(
        "--full", action="store_true",
        help="with --online: all values; default: those since the last recorded end",
    )  # fmt: skip
    options = parser.parse_args()
    with entry.exit_code():
        recipe = entry.recipe_of(options, PipelineRecipe)
        until, reporter = moment(options.until), Reporter()
        connection = Connection.from_environment(os.environ)
        from heliostat.pipeline.run import Run

        run = Run(recipe, connection, reporter, Path.cwd())
        if options.online is None:
            require(
                not (options.full or options.until), "--online", None, "must be given for those"
            )
            run.until(STAGE)
            return
        run.until("features")
        if recipe.service is None:
            raise ConfigError("--recipe", options.recipe, "must have a feature service")
        store = Store(
            where=options.online, file=connection.home.online_db, project=recipe.service.project
        )
        catalog = Catalog(connection.home.tables / recipe.model)
        report = bring(
            recipe.service, catalog, store, until=until, full=options.full,
            now=datetime.now(UTC), reporter=reporter,
        )  # fmt: skip
        tell(connection.lineage(), recipe, recipe.service, report)


def tell(
    lineage: Lineage, recipe: PipelineRecipe, service: FeatureService, report: MaterializeReport
) -> None:
    """Tell which version of each view's table is online, and up to when."""
    for view in service.views:
        until = report.end.isoformat()
        lineage.emit(
            "COMPLETE", f"materialize {view.name}", until,
            inputs=[
                *tables.nodes(recipe, {view.table: report.versions[view.name]}),
                examples.view_node(service, view),
            ],
            outputs=[Node(kind="online", name=f"{service.project}/{view.name}", version=until)],
        )  # fmt: skip


def bring(
    service: FeatureService,
    catalog: Catalog,
    store: Store,
    *,
    until: datetime | None,
    full: bool,
    now: datetime,
    reporter: Reporter,
) -> MaterializeReport:
    """Bring what became known since the last time, and say so; parity is part of it.

    Args:
        service: The views.
        catalog: Where their tables are.
        store: Where to.
        until: Inclusive; None takes `now`.
        full: Whether to begin with the oldest value in any case.
        now: When this happens.
        reporter: Told the figures.

    Raises:
        ConfigError: `until` is not after the last recorded end.
        Unavailable: The store is gone; again, it goes on with what is missing.
        HeliostatError: What is online differs from the tables.
    """
    end = until or now
    start = None if full else last_end(service, store)
    require(
        start is None or start < end, "--until", end.isoformat(),
        f"must be after {start}, up to which all is there; --full begins anew",
    )  # fmt: skip
    began = time.monotonic()
    since = "the beginning" if start is None else start.isoformat()
    reporter.line(STAGE, f"{service.name} from {since} to {end.isoformat()}")
    report = materialize_on_ray(service, catalog, store, start=start, end=end, now=now)
    reporter.line(
        STAGE,
        f"{sum(report.rows.values()):,} entities online, {report.checked:,} lookups compared, in "
        f"{time.monotonic() - began:.1f} s",
    )
    return report


def moment(text: str | None) -> datetime | None:
    """Read a moment of the command line.

    Raises:
        ConfigError: It is none, or has no offset.

    >>> moment("2026-01-01T00:00:00+00:00").year
    2026
    """
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError("--until", text, "must be an ISO 8601 time with an offset") from error
    require(found.tzinfo is not None, "--until", text, "must be an ISO 8601 time with an offset")
    return found
