"""`heliostat contract`: draft contracts and look at what they found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from heliostat.commands import shown
from heliostat.commands.place import AsJson
from heliostat.commands.shown import At, Name

contract_app = typer.Typer(
    help="Draft contracts and look at what they found.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@contract_app.command("infer")
def contract_infer(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, JSON lines or Parquet.")],
    table: Annotated[str, typer.Option(help="Name of the table to be.")],
    *,
    rows: Annotated[int, typer.Option(help="Look at so many rows at most.", min=1)] = 1_000_000,
    as_json: AsJson = False,
) -> None:
    """Draft a contract from a file, as Python to edit."""
    from heliostat.config import to_json
    from heliostat.data.infer import head, infer, source_text

    drafted = infer(head(file, rows), table)
    typer.echo(to_json(drafted) if as_json else source_text(drafted))


@contract_app.command("history")
def contract_history(name: Name, *, at: At = None, as_json: AsJson = False) -> None:
    """List the versions of a table's contract and what each changed."""
    found: dict[int, dict[str, Any]] = {}
    for entry in shown.catalog(at).entries(name):
        kept = entry.details.get("contract")
        if isinstance(kept, dict):
            found[kept["version"]] = {
                "contract_version": kept["version"], "since_table_version": entry.version,
                "at": entry.at.isoformat(), "changes": kept["changes"],
            }  # fmt: skip
    rows = [found[version] for version in sorted(found, reverse=True)]
    if as_json:
        shown.as_json(rows)
        return
    for row in rows:
        typer.echo(
            f"contract {row['contract_version']}, since table version "
            f"{row['since_table_version']} of {row['at'][:19]}"
        )
        for change in row["changes"]:
            typer.echo(f"  {change}")


@contract_app.command("report")
def contract_report(
    name: Name,
    out: Annotated[Path, typer.Option(help="Where to write the page.")],
    *,
    version: Annotated[int | None, typer.Option(help="Which one; the newest if left out.")] = None,
    at: At = None,
) -> None:
    """Write the page of an ingest: rows, refusals and columns with pictures."""
    from heliostat.data import contract_report as reports
    from heliostat.errors import ConfigError

    catalog = shown.catalog(at)
    for entry in catalog.entries(name):
        wanted = version is None or entry.version == version
        if wanted and entry.run_id is not None and "ingest" in entry.details:
            page = catalog._folder(name).read(reports.path(entry.run_id))
            if page is not None:
                out.write_bytes(page)
                typer.echo(f"{name}: the page of version {entry.version} is {out}")
                return
    raise ConfigError(f"table {name}.version", version, "must be one that an ingest made")
