"""Feature views and training examples: what the models of a run learn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from heliostat.data.tables import Catalog
from heliostat.features import offline
from heliostat.features.definitions import EVENT_TIMESTAMP, FeatureService, FeatureView
from heliostat.lineage.events import Lineage, Node
from heliostat.pipeline import tables
from heliostat.pipeline.progress import Reporter
from heliostat.pipeline.recipe import Period, PipelineRecipe
from heliostat.pipeline.stages import Result

if TYPE_CHECKING:
    import polars as pl

TABLE = "examples"
"""Table of all labelled examples with their features, before the replay."""


def build(
    recipe: PipelineRecipe, catalog: Catalog, run_id: str, reporter: Reporter, lineage: Lineage
) -> Result:
    """Compute every feature view and join them to all labelled examples before the replay.

    Returns the versions of the tables written and the number of examples.
    """
    service = recipe.service
    versions = {} if service is None else build_views(service, catalog, run_id, reporter)
    labelled = entities(
        recipe,
        catalog.read(recipe.examples.table),
        period=None,
    ).join(
        catalog.read(recipe.examples.labels).select(recipe.examples.id, recipe.examples.label),
        on=recipe.examples.id,
        how="inner",
        maintain_order="left",
    )
    if service is None:
        rows, inputs = labelled, {}
        told = f"{len(recipe.examples.inputs)} inputs, each given with its request"
    else:
        reporter.progress(
            "features", 9, 10, f"joining {labelled.height:,} examples as of their time"
        )
        rows = offline.training_set(service, labelled, catalog, versions=versions)
        inputs = {view.table: versions[view.name] for view in service.views}
        told = f"{len(service.features)} features, each as known at its prediction time"
    version = catalog.write(TABLE, rows, run_id=run_id, inputs=inputs)
    tell(recipe, catalog, run_id, lineage, {**inputs, TABLE: version})
    reporter.line("features", f"{rows.height:,} examples with {told}")
    return {"versions": {**inputs, TABLE: version}, "examples": rows.height}


def tell(
    recipe: PipelineRecipe,
    catalog: Catalog,
    run_id: str,
    lineage: Lineage,
    versions: Mapping[str, int],
) -> None:
    """Tell what each view's table and the training set were made from, the definitions too."""
    views = () if recipe.service is None else recipe.service.views
    for view in views:
        definition = view_node(recipe.service, view)
        lineage.emit(
            "COMPLETE", f"view {view.name}", run_id,
            inputs=[*_newest(recipe, catalog, view.inputs), definition],
            outputs=tables.nodes(recipe, {view.table: versions[view.table]}),
        )  # fmt: skip
    joined = {view.table: versions[view.table] for view in views}
    lineage.emit(
        "COMPLETE", "training set", run_id,
        inputs=[
            *tables.nodes(recipe, joined),
            *_newest(recipe, catalog, (recipe.examples.table, recipe.examples.labels)),
        ],
        outputs=tables.nodes(recipe, {TABLE: versions[TABLE]}),
    )  # fmt: skip


def view_node(service: FeatureService | None, view: FeatureView) -> Node:
    """Name a view by what defines it."""
    project = "" if service is None else f"{service.project}/"
    return Node(kind="view", name=f"{project}{view.name}", version=view.digest())


def _newest(recipe: PipelineRecipe, catalog: Catalog, names: Iterable[str]) -> list[Node]:
    found = {name: catalog.version(name) for name in dict.fromkeys(names)}
    return tables.nodes(
        recipe, {name: number for name, number in found.items() if number is not None}
    )


def build_views(
    service: FeatureService, catalog: Catalog, run_id: str, reporter: Reporter
) -> dict[str, int]:
    """Compute every view as a table, some at a time, and return their versions by view name."""
    versions: dict[str, int] = {}
    with ThreadPoolExecutor(max_workers=4) as pool:
        pending = {
            view.name: pool.submit(offline.build_view, view, catalog, run_id=run_id)
            for view in service.views
        }
        for done, (name, future) in enumerate(pending.items(), start=1):
            versions[name] = future.result()
            reporter.progress("features", done, len(pending) + 1, f"view {name}")
    return versions


def entities(recipe: PipelineRecipe, rows: pl.DataFrame, period: Period | None) -> pl.DataFrame:
    """Take what requests carry, and prediction times, of examples in order of time.

    Args:
        recipe: Says which columns these are.
        rows: The examples table.
        period: Only examples of this period; None takes all before the replay.

    Returns:
        Columns: the examples' id, the keys or inputs, and ``event_timestamp``.
    """
    import polars as pl

    spec = recipe.examples
    time = pl.col(spec.time)
    chosen = (
        time < recipe.replay.period.start_at
        if period is None
        else (time >= period.start_at) & (time < period.end_at)
    )
    columns = dict.fromkeys((spec.id, *recipe.asked))
    return rows.filter(chosen).sort(spec.time, spec.id).select(
        *columns, time.alias(EVENT_TIMESTAMP)
    )  # fmt: skip


def within(rows: pl.DataFrame, period: Period) -> pl.DataFrame:
    """Take the examples whose prediction time lies in the period."""
    import polars as pl

    time = pl.col(EVENT_TIMESTAMP)
    return rows.filter((time >= period.start_at) & (time < period.end_at))


def revealed(
    recipe: PipelineRecipe, service: FeatureService, catalog: Catalog
) -> Mapping[str, pl.DataFrame]:
    """Every table that views read, the sealed rows of the replay's period included.

    Only the replay may call it; a sealed catalog refuses.
    """
    import polars as pl

    hidden = {table.name: table for table in recipe.derived if table.replayed_by is not None}
    names = dict.fromkeys(name for view in service.views for name in view.inputs)
    return {
        name: pl.concat([catalog.read(name), catalog.read(hidden[name].replay_name)])
        if name in hidden
        else catalog.read(name)
        for name in names
    }
