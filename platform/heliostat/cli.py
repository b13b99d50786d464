"""One command line: each command is one call and one exit code.

Exit codes are those of `heliostat.errors`: 0 done, 1 our bug, 2 fix what you wrote, 3 a gate
said no, 4 an outside system is down, 130 you asked to stop.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heliostat import __version__
from heliostat.commands import groups, jobs
from heliostat.commands.place import AsJson, say
from heliostat.errors import HeliostatError

if TYPE_CHECKING:
    from heliostat.stack.settings import StackSettings

app = typer.Typer(
    name="heliostat",
    help="From raw data to a model that earned its traffic, on Ray.",
    epilog="exit: 0 done  2 fix what you wrote  3 a gate said no  4 an outside system is down  "
    "130 stopped  1 our bug",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
groups.register(app)

Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting: ports.mlflow=5001."),
]


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"heliostat {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def up(assignments: Assignments = None) -> None:
    """Start the local platform and wait until it answers; safe to repeat."""
    from heliostat.stack import local

    repository, home, settings = _place(assignments)
    found = local.up(home, repository, settings, environ_now=os.environ, say=say)
    for name, url in found.urls.items():
        typer.echo(f"  {name:<10} {url}")


@app.command()
def down() -> None:
    """End everything that `up` started, also after a crash; safe to repeat."""
    from heliostat.stack import local

    _, home, _ = _place(None)
    jobs.keep_logs()
    local.down(home, say=say)


@app.command()
def status(*, as_json: AsJson = False) -> None:
    """Say what runs; exit 4 unless all of it answers."""
    from heliostat.stack import local

    _, home, _ = _place(None)
    found = local.status(home, environ_now=os.environ)
    if as_json:
        typer.echo(json.dumps(local.to_json(found), indent=2))
    else:
        typer.echo(f"{found.state} ({found.num_processes} processes)")
        for name, health in {**found.parts, **found.applications}.items():
            typer.echo(f"  {name:<10} {health}")
        for name, url in found.urls.items():
            typer.echo(f"  {name:<10} {url}")
    if found.state != "up":
        raise typer.Exit(4)


@app.command()
def serve(
    config: Annotated[
        Path, typer.Argument(metavar="FILE", help="Serve config; every application in it.")
    ] = Path("serve_apps/platform.yaml"),
    *,
    show: Annotated[
        bool, typer.Option("--show", help="Print it as `serve deploy` takes it, and stop.")
    ] = False,
    timeout_s: Annotated[float, typer.Option("--timeout-s", min=1, help="To be ready.")] = 180.0,
    as_json: AsJson = False,
) -> None:
    """Deploy a config of Serve applications and wait until all run; safe to repeat."""
    from heliostat.stack import serving

    repository, home, _ = _place(None)
    if config.exists():
        config = config.absolute()  # else it is looked for in the repository
    if show:
        import yaml

        typer.echo(yaml.safe_dump(serving.prepared(home, config, repository)[0], sort_keys=False))
        return
    found = serving.deploy(home, config, repository, environ_now=os.environ, timeout_s=timeout_s)
    if as_json:
        told = {"applications": found.applications, "ended": list(found.ended)}
        typer.echo(json.dumps(told, indent=2))
        return
    for name, health in found.applications.items():
        typer.echo(f"  {name:<20} {health}")
    for name in found.ended:
        typer.echo(f"  {name:<20} ended: the file does not name it")


@app.command()
def doctor(*, assignments: Assignments = None, as_json: AsJson = False) -> None:
    """Check this machine and the platform; each finding comes with its fix."""
    from heliostat.stack import doctor as checks

    _, home, settings = _place(assignments)
    findings = checks.examine(home, settings, environ_now=os.environ)
    if as_json:
        typer.echo(json.dumps([checks.to_json(item) for item in findings], indent=2))
    else:
        for item in findings:
            typer.echo(f"{checks.SIGN[item.verdict]} {item.name:<22} {item.found}")
            if item.fix:
                typer.echo(f"  {'':<22} fix: {item.fix}")
    if any(item.verdict == "bad" for item in findings):
        raise typer.Exit(2)


@app.command()
def env() -> None:
    """Print the variables by which other tools find the platform: eval "$(heliostat env)"."""
    from heliostat.stack import environ, local

    _, home, _ = _place(None)
    typer.echo(environ.exports(local.client_variables(home)))


@app.command(context_settings={"allow_interspersed_args": False})
def submit(
    entrypoint: jobs.Entrypoint, recipe: jobs.Recipe = None, assignments: Assignments = None
) -> None:
    """Run a script as a Ray job on the platform, follow it, and exit as it does."""
    jobs.submit(entrypoint, recipe, assignments)


@app.command()
def plan(
    recipe: Annotated[str, typer.Option(metavar="MODULE:FUNCTION", help="The recipe of the run.")],
    assignments: Assignments = None,
) -> None:
    """Print the whole config of a run as JSON, checked, and stop."""
    from heliostat.config import to_json

    repository, _, _ = _place(None)
    typer.echo(to_json(jobs.resolve(repository, recipe, assignments)))


def main() -> None:
    """Run the command line; what `heliostat` starts."""
    try:
        app()
    except HeliostatError as error:
        if error.exit_code == HeliostatError.exit_code:
            raise
        typer.echo(f"heliostat: {error}", err=True)
        sys.exit(error.exit_code)


def _place(assignments: list[str] | None) -> tuple[Path, Path, StackSettings]:
    from heliostat.stack.settings import find_repository, home_root, load_settings

    repository = find_repository(Path.cwd())
    settings = load_settings(os.environ, assignments or [])
    return repository, home_root(os.environ, repository), settings


if __name__ == "__main__":
    main()
