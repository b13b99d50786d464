"""The commands about the keys that sign models: `heliostat model keys`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from heliostat.commands.place import AsJson, home_root
from heliostat.commands.shown import as_table

model_keys_app = typer.Typer(
    help="See and change which keys sign models, and whose models are accepted.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@model_keys_app.command("list")
def keys_list(*, as_json: AsJson = False) -> None:
    """List the keys whose models are accepted."""
    from heliostat.registry import signing

    folder = _folder()
    current = signing.create_key(folder)
    rows = [
        {"key": name, "signs": name == current, "file": str(path)}
        for name, path in signing.trusted_keys(folder).items()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    as_table(
        ("key", "signs now", "file"),
        [(str(row["key"])[:16], "yes" if row["signs"] else "-", str(row["file"])) for row in rows],
    )


@model_keys_app.command("rotate")
def keys_rotate() -> None:
    """Sign with a new key from now on; models of the old one stay accepted."""
    from heliostat.registry import signing

    typer.echo(f"new models are signed by {signing.rotate_key(_folder())[:16]}")


@model_keys_app.command("trust")
def keys_trust(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A public key in PEM.")],
) -> None:
    """Accept the models of another signer too."""
    from heliostat.registry import signing

    typer.echo(f"models signed by {signing.trust(_folder(), file)[:16]} are accepted")


@model_keys_app.command("distrust")
def keys_distrust(
    key: Annotated[str, typer.Argument(metavar="KEY", help="As `list` shows it.")],
) -> None:
    """Refuse every model of a key from now on; what is loaded already goes on answering."""
    from heliostat.registry import signing

    typer.echo(f"models signed by {signing.distrust(_folder(), key)[:16]} are refused")


def _folder() -> Path:
    from heliostat.store.home import Home

    return Home(root=home_root()).keys
