"""`heliostat stream`: how streams stand."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated

import typer

from heliostat.commands import shown
from heliostat.commands.place import AsJson
from heliostat.commands.shown import At

stream_app = typer.Typer(
    help="Look at streams; a job runs them.", no_args_is_help=True, rich_markup_mode=None
)


@stream_app.callback()
def stream() -> None:
    """Look at streams; a job runs them."""


@stream_app.command("status")
def stream_status(
    *,
    model: Annotated[
        str | None, typer.Option(help="Tables of this model; without it, --at or all tables.")
    ] = None,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Show each stream's positions, watermarks, lag and dead letters, as its last commits left them."""
    from heliostat.streams.status import status

    catalog = shown.catalog(at)
    found = status(catalog if model is None else catalog.below(model))
    if as_json:
        shown.as_json([asdict(item) for item in found])
        return
    for item in found:
        dead = ", ".join(f"{n:,} {kind}" for kind, n in item.dead_letters.items()) or "none"
        typer.echo(
            f"{item.name}: {item.rows:,} rows in {item.table}, from topic {item.topic}; "
            f"dead letters: {dead}"
        )
        shown.as_table(
            ["partition", "position", "watermark", "behind", "reader", "at"],
            [
                [
                    part.place, str(part.position),
                    "-" if part.watermark is None
                    else datetime.fromtimestamp(part.watermark, UTC).isoformat(timespec="seconds"),
                    "?" if part.behind is None else f"{part.behind:,}", part.consumer, part.at,
                ]
                for part in item.partitions
            ],
        )  # fmt: skip
