"""Fill the tables: ingest the sources, derive from them, and seal what the replay reveals."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from heliostat.data import ingest, origins, pii
from heliostat.data.rows import Source
from heliostat.data.tables import Catalog
from heliostat.lineage.events import Lineage, Node
from heliostat.pipeline.progress import Reporter
from heliostat.pipeline.recipe import DerivedTable, PipelineRecipe
from heliostat.pipeline.stages import Result

if TYPE_CHECKING:
    import polars as pl


def fill(
    recipe: PipelineRecipe,
    catalog: Catalog,
    run_id: str,
    now: datetime,
    reporter: Reporter,
    lineage: Lineage,
) -> Result:
    """Write every source and derived table, and return their versions and row counts.

    Rows that break a contract are in the table's quarantine, with the reason; rows read are
    always rows written and rows quarantined.

    Raises:
        ConfigError: A source cannot be what its contract describes.
        GateRefused: Too many rows of a source break its contract; nothing of it is visible.
    """
    versions: dict[str, int] = {}
    rows: dict[str, dict[str, int]] = {}
    for table in recipe.sources:
        name = table.contract.table
        report = ingest.ingest(
            table.source,
            table.contract,
            catalog,
            run_id=run_id,
            now=now,
            progress=lambda done, total, text, name=name: reporter.progress(  # type: ignore[misc]
                "ingest", done, total, f"{name}: {done:,} {text}"
            ),
        )
        versions[name] = report.version
        lineage.emit(
            "COMPLETE", f"ingest {name}", run_id,
            inputs=origins.nodes(table.source, run_id), outputs=nodes(recipe, {name: report.version}),
        )  # fmt: skip
        rows[name] = {
            "read": report.rows_read,
            "written": report.rows_written,
            "quarantined": report.rows_quarantined,
        }
        text = f"{name}: {report.rows_read:,} rows read, {report.rows_written:,} written"
        if report.rows_quarantined:
            reasons = "; ".join(f"{reason} ({count})" for reason, count in report.reasons.items())
            text += f", {report.rows_quarantined:,} quarantined: {reasons}"
        reporter.line("ingest", text)
        if report.contract_version > 1 and report.contract_changes:
            reporter.line(
                "ingest",
                f"{name}: contract version {report.contract_version}: "
                + "; ".join(report.contract_changes),
            )
    for derived in recipe.derived:
        frames = {name: catalog.read(name, versions[name]) for name in derived.inputs}
        for name, frame in _parts(derived, derived.compute(frames), recipe).items():
            inputs = {table: versions[table] for table in derived.inputs}
            tags = pii.renamed(catalog, frame, inputs)
            versions[name] = catalog.write(name, frame, run_id=run_id, inputs=inputs, tags=tags)
            lineage.emit(
                "COMPLETE", f"derive {name}", run_id,
                inputs=nodes(recipe, inputs), outputs=nodes(recipe, {name: versions[name]}),
            )  # fmt: skip
            reporter.line("ingest", f"{name}: {frame.height:,} rows derived")
    return {"versions": versions, "rows": rows}


def nodes(recipe: PipelineRecipe, versions: Mapping[str, int]) -> list[Node]:
    """Name versions of tables as lineage does: below the folder of all models' tables."""
    return [
        Node(kind="table", name=f"{recipe.model}/{name}", version=str(version))
        for name, version in versions.items()
    ]


def state(source: Source) -> str | None:
    """Name what a source holds, by content; None where nobody can tell without reading it."""
    return origins.files_digest(source.paths) if source.paths else None


def _parts(
    table: DerivedTable, frame: pl.DataFrame, recipe: PipelineRecipe
) -> dict[str, pl.DataFrame]:
    import polars as pl

    if table.replayed_by is None:
        return {table.name: frame}
    hidden = pl.col(table.replayed_by) >= recipe.replay.period.start_at
    return {table.name: frame.filter(~hidden), table.replay_name: frame.filter(hidden)}
