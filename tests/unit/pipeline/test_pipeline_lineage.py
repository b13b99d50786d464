"""What a training set and the online store are made from, told view by view."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from heliostat.data.tables import Catalog
from heliostat.features.materialize import MaterializeReport
from heliostat.lineage.events import Lineage
from heliostat.lineage.graph import Graph
from heliostat.pipeline import bring, examples
from jobs.flights import recipes

RECIPE = recipes.small()


def test_a_training_set_names_its_views_and_each_view_its_own_tables(tmp_path: Path) -> None:
    """A view that reads one table is made from that one and from its definition, and no more."""
    service = RECIPE.service
    assert service is not None
    catalog = Catalog(tmp_path / "tables")
    names = {name for view in service.views for name in (view.table, *view.inputs)}
    for name in (*names, RECIPE.examples.table, RECIPE.examples.labels, examples.TABLE):
        catalog.write(name, pl.DataFrame({"x": [1]}), run_id="r")
    versions = dict.fromkeys([*(view.table for view in service.views), examples.TABLE], 0)

    examples.tell(RECIPE, catalog, "r", Lineage(tmp_path), versions)

    graph = Graph.read(tmp_path / "events.jsonl")
    model = RECIPE.model
    assert set(graph.made_from[f"table:{model}/{examples.TABLE}@0"]) == {
        *(f"table:{model}/{view.table}@0" for view in service.views),
        f"table:{model}/{RECIPE.examples.table}@0",
        f"table:{model}/{RECIPE.examples.labels}@0",
    }
    (view,) = (item for item in service.views if item.name == "aircraft")
    assert set(graph.made_from[f"table:{model}/{view.table}@0"]) == {
        f"table:{model}/raw/planes@0",
        f"view:{service.project}/aircraft@{view.digest()}",
    }


def test_what_is_online_names_the_version_of_its_table(tmp_path: Path) -> None:
    """And up to when its values go."""
    service = RECIPE.service
    assert service is not None
    end = datetime(2026, 1, 1, tzinfo=UTC)
    report = MaterializeReport(
        start=None, end=end, rows={}, versions={view.name: 3 for view in service.views}, checked=0
    )

    bring.tell(Lineage(tmp_path), RECIPE, service, report)

    graph = Graph.read(tmp_path / "events.jsonl")
    view = service.views[0]
    node = f"online:{service.project}/{view.name}@2026-01-01T00:00:00+00:00"
    assert sorted(graph.made_from[node]) == [
        f"table:{RECIPE.model}/{view.table}@3",
        f"view:{service.project}/{view.name}@{view.digest()}",
    ]
