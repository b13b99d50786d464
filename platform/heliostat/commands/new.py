"""The command that begins a workload: `heliostat new`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heliostat.commands.shown import as_table

if TYPE_CHECKING:
    from heliostat.scaffold.create import Created

_Header = Annotated[str | None, typer.Option(metavar="COLUMN")]


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Folder below jobs/.")],
    file: Annotated[Path, typer.Option("--from", metavar="FILE", help="CSV with a header.")],
    label: Annotated[str, typer.Option(metavar="COLUMN", help="What to predict.")],
    time: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="When a prediction is due; else the order of rows."),
    ] = None,
    entity: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Whom a row is about; else requests carry all inputs."),
    ] = None,
    positive: Annotated[
        str | None, typer.Option(metavar="VALUE", help="Label that counts as 1, all others as 0.")
    ] = None,
) -> None:
    """Begin a workload from a CSV file: a folder that runs at once through the whole pipeline."""
    from heliostat.scaffold.create import create
    from heliostat.stack.settings import find_repository

    created = create(
        find_repository(Path.cwd()), name, file,
        label=label, time=time, entity=entity, positive=positive,
    )  # fmt: skip
    _tell(created)


def _tell(created: Created) -> None:
    guesses = created.guesses
    as_table(
        ("column", "type", "taken as", "because"),
        [
            (
                item.column.source_name,
                item.column.dtype + (", may be missing" if item.column.nullable else ""),
                item.role,
                item.why,
            )
            for item in guesses.columns
        ],
    )
    typer.echo("")
    for note in created.notes:
        typer.echo(note)
    leaks = [item.column.source_name for item in guesses.columns if "leak" in item.why]
    if leaks:
        typer.echo(f"Left out as likely leaks: {', '.join(leaks)}. Look at each before using it.")
    folder = os.path.relpath(created.folder)
    typer.echo(f"\n{folder}: {', '.join(created.files)}")
    typer.echo(f"  wrong about a column?  {folder}/tables.py: ROWS, NUMERIC, CATEGORICAL, LEFT_OUT")
    typer.echo(f"  periods, gates, canary {folder}/recipes.py")
    typer.echo("\nRun it, from the file to a version that earned its traffic:")
    typer.echo(f"  heliostat up && heliostat submit --recipe {created.recipe} -- jobs/pipeline.py")
