"""Add the commands about data to the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat.data_cli import contracts, lineage, tables

if TYPE_CHECKING:
    import typer


def register(app: typer.Typer) -> None:
    """Add the three groups of commands."""
    app.add_typer(tables.table_app, name="table")
    app.add_typer(contracts.contract_app, name="contract")
    app.add_typer(lineage.lineage_app, name="lineage")
