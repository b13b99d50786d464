"""Index a table for nearest neighbours: what ``jobs/embed.py`` runs."""

from __future__ import annotations

import os

from heliostat import config
from heliostat.data import vectors
from heliostat.data.tables import Catalog
from heliostat.lineage.events import Node
from heliostat.pipeline import entry
from heliostat.pipeline.connection import Connection
from heliostat.pipeline.progress import Reporter
from heliostat.serving import deployments

STAGE = "embed"


def main() -> None:
    """Read the command line, build, and leave the process with the right exit code."""
    parser = entry.parser_for("Make a vector of each row of a table and index them.")
    parser.add_argument("--table", required=True, help="as `heliostat table list` names it")
    parser.add_argument("--table-version", type=int, help="default: the newest")
    parser.add_argument("--embed", required=True, help="module:function of a block of rows")
    parser.add_argument("--serve", action="store_true", help="answer at /vectors too")
    options = parser.parse_args()
    with entry.exit_code():
        connection = Connection.from_environment(os.environ)
        embed = config.function(options.embed, "--embed")
        entry.connect()
        built = vectors.build(
            Catalog(connection.home.tables), options.table, connection.home.root / "vectors",
            embed=embed, version=options.table_version,
        )  # fmt: skip
        connection.lineage().emit(
            "COMPLETE", STAGE, f"{options.table}@{built.version}",
            inputs=[Node(kind="table", name=options.table, version=str(built.version))],
            outputs=[Node(kind="index", name=options.table, version=str(built.version))],
        )  # fmt: skip
        reporter = Reporter()
        reporter.line(
            STAGE,
            f"{options.table} version {built.version}: {built.rows:,} vectors of {built.width} "
            "numbers",
        )
        if options.serve:
            deployments.start_neighbours(
                {"home": str(connection.home.root), "endpoint": connection.endpoint}
            )
            reporter.line(STAGE, f"served: POST {connection.endpoint}/vectors/{options.table}")
