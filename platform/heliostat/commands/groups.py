"""Add every group of commands to the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat.commands import (
    clusters,
    contracts,
    keys,
    lineage,
    models,
    rollouts,
    tables,
    vectors,
)

if TYPE_CHECKING:
    import typer


def register(app: typer.Typer) -> None:
    """Add them, in the order in which help shows them."""
    app.add_typer(rollouts.rollout_app, name="rollout")
    app.add_typer(models.model_app, name="model")
    app.add_typer(tables.table_app, name="table")
    app.add_typer(vectors.vector_app, name="vector")
    app.add_typer(contracts.contract_app, name="contract")
    app.add_typer(lineage.lineage_app, name="lineage")
    app.add_typer(keys.key_app, name="key")
    app.add_typer(clusters.cluster_app, name="cluster")
