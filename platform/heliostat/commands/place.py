"""Where the platform of this clone is, for every command that needs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from heliostat.control.client import ControlClient

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def home_root() -> Path:
    """The state folder of this clone's platform."""
    from heliostat.stack import settings

    return settings.home_root(os.environ, settings.find_repository(Path.cwd()))


def controller() -> ControlClient:
    """Talk to the rollout controller of the platform that is up.

    Raises:
        ConfigError: The platform is not up.
    """
    from heliostat.control.client import ControlClient
    from heliostat.stack import local

    return ControlClient(
        endpoint=local.client_variables(home_root())["HELIOSTAT_ENDPOINT"],
        api_key=os.environ.get("HELIOSTAT_API_KEY"),
    )


def say(line: str) -> None:
    """Print a line at once, also into a pipe."""
    typer.echo(line)
    sys.stdout.flush()
