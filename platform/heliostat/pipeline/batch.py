"""Score a table of a workload with a registered version: what ``jobs/batch_predict.py`` runs."""

from __future__ import annotations

import os

from heliostat.data.tables import Catalog
from heliostat.errors import ConfigError
from heliostat.inference.batch import BatchModel, predict
from heliostat.lineage.events import Node
from heliostat.pipeline import entry
from heliostat.pipeline.connection import Connection
from heliostat.pipeline.progress import Reporter
from heliostat.registry.tracking import Tracking
from heliostat.registry.versions import Registry

STAGE = "batch_predict"


def main() -> None:
    """Read the command line, score, and leave the process with the right exit code."""
    parser = entry.parser_for("Score every row of a table and write the answers to a table.")
    parser.add_argument("--model", required=True)
    parser.add_argument("--version", help="registered version; default: the one that is stable")
    parser.add_argument("--table", required=True, help="a column for each input of the model")
    parser.add_argument("--table-version", type=int, help="default: the newest")
    parser.add_argument("--into", help="default: predictions/vVERSION")
    parser.add_argument("--keep", default="", help="columns that go along, such as ids: a,b")
    parser.add_argument("--workers", type=int, help="processes; default: one for each CPU")
    options = parser.parse_args()
    with entry.exit_code():
        connection = Connection.from_environment(os.environ)
        version = options.version or _stable(connection, options.model)
        found = Registry(Tracking(connection.tracking_uri), connection.home).get(
            options.model, version
        )
        reporter = Reporter()
        entry.connect()
        into = options.into or f"predictions/v{version}"
        catalog = Catalog(connection.home.tables / options.model)
        # Asked once: what is told and what is read are the same version.
        table_version = options.table_version
        if table_version is None:
            table_version = catalog.version(options.table)
        model = Node(kind="model", name=options.model, version=version)
        read = [model]
        if table_version is not None:
            read.append(_table(options.model, options.table, table_version))
        run_id = f"{found.digest}/{options.table}@{table_version}/{into}"
        with connection.lineage().stage(STAGE, run_id, read) as made:
            report = predict(
                BatchModel(
                    name=options.model,
                    version=version,
                    package=found.path,
                    keys=connection.home.keys,
                    digest=found.digest,
                ),
                catalog,
                options.table,
                into,
                source_version=table_version,
                keep=tuple(filter(None, options.keep.split(","))),
                num_workers=options.workers,
                progress=lambda done, total, text: reporter.progress(
                    STAGE, done, total, f"{done:,} {text}"
                ),
            )
            made.append(_table(options.model, report.table, report.version))
        kept = f", {report.rows_kept:,} of them by an earlier try" if report.rows_kept else ""
        reporter.line(
            STAGE,
            f"{options.model} version {version}: {report.rows:,} rows of {options.table} version "
            f"{report.source_version} scored into {report.table} version {report.version}{kept}",
        )


def _table(model: str, name: str, version: int) -> Node:
    return Node(kind="table", name=f"{model}/{name}", version=str(version))


def _stable(connection: Connection, model: str) -> str:
    """Ask the gateway which version is stable."""
    models = connection.control().status()["models"]
    stable = models.get(model, {}).get("stable")
    if stable is None:
        raise ConfigError(
            "--model", model, "must be served, or --version must be given",
            next_step=f"Served: {', '.join(models) or 'none'}",
        )  # fmt: skip
    return str(stable)
