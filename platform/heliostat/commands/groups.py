"""Add every group of commands to the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat.commands import (
    clusters,
    contracts,
    features,
    jobs,
    keys,
    lineage,
    model_keys,
    models,
    new,
    rollouts,
    streams,
    tables,
    vectors,
)

if TYPE_CHECKING:
    import typer


def register(app: typer.Typer) -> None:
    """Add them, in the order in which help shows them."""
    app.command("new")(new.new)
    app.add_typer(jobs.job_app, name="job")
    app.add_typer(rollouts.rollout_app, name="rollout")
    models.model_app.add_typer(model_keys.model_keys_app, name="keys")
    app.add_typer(models.model_app, name="model")
    app.add_typer(tables.table_app, name="table")
    app.add_typer(vectors.vector_app, name="vector")
    app.add_typer(contracts.contract_app, name="contract")
    app.add_typer(features.features_app, name="features")
    app.add_typer(streams.stream_app, name="stream")
    app.add_typer(lineage.lineage_app, name="lineage")
    app.add_typer(keys.key_app, name="key")
    app.add_typer(clusters.cluster_app, name="cluster")
