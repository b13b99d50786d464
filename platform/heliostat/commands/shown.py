"""What the commands about data share: which tables, and how answers look."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heliostat.commands.place import home_root

if TYPE_CHECKING:
    from heliostat.data.tables import Catalog

At = Annotated[
    str | None,
    typer.Option(
        "--at", metavar="PATH|URL",
        help="Folder of the tables, or its URL; the platform's own if left out.",
    ),
]  # fmt: skip
Name = Annotated[str, typer.Argument(metavar="TABLE", help="As `heliostat table list` names it.")]


def size(num_bytes: int) -> str:
    """Write a number of bytes for people.

    >>> [size(n) for n in (0, 2047, 5 * 2**20, 3 * 2**40)]
    ['0 B', '2.0 KiB', '5.0 MiB', '3,072.0 GiB']
    """
    if num_bytes < 1024:
        return f"{num_bytes} B"
    value = float(num_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024 or unit == "GiB":
            break
    return f"{value:,.1f} {unit}"


def catalog(at: str | None) -> Catalog:
    """Open the tables that `--at` names; the environment has the options of a URL.

    What is written to the platform's own is told to its lineage.
    """
    from heliostat.data.storage import is_url
    from heliostat.data.tables import Catalog
    from heliostat.lineage.events import Lineage

    if at is None:
        home = home_root()
        lineage = Lineage(
            home / "lineage", url=os.environ.get("OPENLINEAGE_URL"), tables=home / "tables"
        )
        return Catalog(home / "tables", lineage=lineage)
    if not is_url(at):
        return Catalog(Path(at).absolute())
    stores = ("AWS_", "GOOGLE_", "AZURE_")
    return Catalog(
        at, options={key: value for key, value in os.environ.items() if key.startswith(stores)}
    )


def run_id(verb: str) -> str:
    """Name a run of this command line, unlike any other."""
    return f"{verb}-{uuid.uuid4().hex[:12]}"


def as_json(value: Any) -> None:
    """Print JSON."""
    typer.echo(json.dumps(value, indent=2, default=str))


def as_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print columns."""
    from heliostat.pipeline.layout import table

    for line in table(header, rows):
        typer.echo(line)
