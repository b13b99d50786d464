"""The commands about API keys: `heliostat key`."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

from heliostat.commands.place import AsJson, home_root

if TYPE_CHECKING:
    from heliostat.access.keys import KeyFile

key_app = typer.Typer(
    help="Make, list, rotate and revoke API keys.", no_args_is_help=True, rich_markup_mode=None
)

OfController = Annotated[
    bool,
    typer.Option("--control", help="Keys of the rollout controller, not of the models."),
]


@key_app.command("create")
def key_create(
    owner: Annotated[str, typer.Argument(help="Who will hold it.")],
    role: Annotated[str, typer.Option(help="predict, operate or admin.")] = "predict",
    model: Annotated[list[str] | None, typer.Option(help="Only these models.")] = None,
    rate_per_s: Annotated[float | None, typer.Option(help="Requests per second.")] = None,
    burst: Annotated[int | None, typer.Option(help="Requests at once.")] = None,
    *,
    control: OfController = False,
) -> None:
    """Make a key and print it, this once; only its HMAC is kept."""
    text, key = _keys(control).create(
        owner, role=role, models=tuple(model) if model else None, rate_per_s=rate_per_s, burst=burst
    )
    typer.echo(f"id {key.id}, role {key.role}, for {key.owner}; shown once:", err=True)
    typer.echo(text)


@key_app.command("list")
def key_list(*, control: OfController = False, as_json: AsJson = False) -> None:
    """List all keys, the oldest first; their secrets are not known."""
    from dataclasses import asdict

    rows = [asdict(key) for key in _keys(control).list()]
    for row in rows:
        del row["mac"]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        limit = "no limit" if row["rate_per_s"] is None else f"{row['rate_per_s']:g}/s"
        ended = "" if row["ends_at"] is None else f"  ends at {row['ends_at']:.0f}"
        typer.echo(f"{row['id']}  {row['role']:<8} {limit:<9} {row['owner']}{ended}")


@key_app.command("rotate")
def key_rotate(
    key_id: Annotated[str, typer.Argument(metavar="ID")],
    overlap_s: Annotated[float, typer.Option(help="How long the old key stays good.")] = 3600.0,
    *,
    control: OfController = False,
) -> None:
    """Make a successor with the same rights and print it; the old key ends after the overlap."""
    text, key = _keys(control).rotate(key_id, overlap_s=overlap_s)
    typer.echo(f"id {key.id} follows {key_id}; shown once:", err=True)
    typer.echo(text)


@key_app.command("revoke")
def key_revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID")], *, control: OfController = False
) -> None:
    """End a key; gateways refuse it within a second."""
    _keys(control).revoke(key_id)
    typer.echo(f"{key_id} is revoked")


def _keys(control: bool) -> KeyFile:
    from heliostat.access.keys import KeyFile
    from heliostat.store.home import open_home

    folder = open_home(home_root()).keys
    return KeyFile(folder / "control" if control else folder, time.time)
