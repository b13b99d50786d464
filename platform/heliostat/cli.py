"""One command line: each command is one call and one exit code.

Exit codes are those of `heliostat.errors`: 0 done, 1 our bug, 2 fix what you wrote, 3 a gate
said no, 4 an outside system is down, 130 you asked to stop.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heliostat import __version__
from heliostat.commands import groups
from heliostat.commands.place import AsJson, say
from heliostat.errors import ConfigError, HeliostatError

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
On = Annotated[
    str | None,
    typer.Option(
        metavar="TARGET",
        help="Run on a cluster: eks, gke, aks, onprem, or MODULE:FUNCTION of your recipe.",
    ),
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
    entrypoint: Annotated[
        list[str], typer.Argument(metavar="-- SCRIPT [ARGS]", help="Script of the clone.")
    ],
    recipe: Annotated[
        str | None, typer.Option(metavar="MODULE:FUNCTION", help="Passed on to the script.")
    ] = None,
    assignments: Assignments = None,
    on: On = None,
    context: Annotated[str | None, typer.Option(help="kubectl's context, with --on.")] = None,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --on: print the RayJob, and stop.")
    ] = False,
) -> None:
    """Run a script as a Ray job on the platform or a cluster, follow it, and exit as it does."""
    from heliostat.submit import client

    repository, home, _ = _place(None)
    arguments = list(entrypoint)
    if recipe:
        _resolve(repository, recipe, assignments)
        arguments += ["--recipe", recipe]
    for text in assignments or []:
        arguments += ["--set", text]
    if on is not None:
        raise typer.Exit(_submit_on(on, arguments, context, is_dry_run=dry_run))
    raise typer.Exit(client.run(arguments, repository=repository, home=home))


@app.command()
def plan(
    recipe: Annotated[str, typer.Option(metavar="MODULE:FUNCTION", help="The recipe of the run.")],
    assignments: Assignments = None,
) -> None:
    """Print the whole config of a run as JSON, checked, and stop."""
    from heliostat.config import to_json

    repository, _, _ = _place(None)
    typer.echo(to_json(_resolve(repository, recipe, assignments)))


def main() -> None:
    """Run the command line; what `heliostat` starts."""
    try:
        app()
    except HeliostatError as error:
        if error.exit_code == HeliostatError.exit_code:
            raise
        typer.echo(f"heliostat: {error}", err=True)
        sys.exit(error.exit_code)


def _submit_on(target: str, words: list[str], context: str | None, *, is_dry_run: bool) -> int:
    """Run the words as a RayJob; the recipe says on which cluster."""
    from heliostat import config
    from heliostat.clusters import render
    from heliostat.submit import cluster

    sys.path.insert(0, str(Path.cwd()))
    recipe = target if ":" in target else f"cluster_configs.recipes:{target}"
    platform = config.load(recipe)
    if not isinstance(platform, render.Platform):
        raise ConfigError("--on", target, "must be a recipe that returns a Platform")
    body = cluster.ray_job(platform, words)
    if is_dry_run:
        typer.echo(render.to_yaml(body), nl=False)
        return 0
    if context is None:
        raise ConfigError("--context", None, "must name the cluster's context of kubectl with --on")
    return cluster.run(body, cluster.Kubectl(context=context))


def _place(assignments: list[str] | None) -> tuple[Path, Path, StackSettings]:
    from heliostat.stack.settings import find_repository, home_root, load_settings

    repository = find_repository(Path.cwd())
    settings = load_settings(os.environ, assignments or [])
    return repository, home_root(os.environ, repository), settings


def _resolve(repository: Path, recipe: str, assignments: list[str] | None) -> Any:
    """Build the config of a run, so that a mistake in it is refused before anything starts."""
    from heliostat import config

    sys.path.insert(0, str(repository))
    return config.override(config.load(recipe), assignments or [])


if __name__ == "__main__":
    main()
