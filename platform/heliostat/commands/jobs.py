"""The commands about jobs: `heliostat job`."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from heliostat.commands.place import AsJson, home_root, say
from heliostat.commands.shown import as_table, size
from heliostat.errors import ConfigError

job_app = typer.Typer(
    help="Run scripts as Ray jobs, and read what became of them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_KEEP_LOGS_S = 10.0

Entrypoint = Annotated[
    list[str], typer.Argument(metavar="-- SCRIPT [ARGS]", help="Script of the clone.")
]
Recipe = Annotated[
    str | None, typer.Option(metavar="MODULE:FUNCTION", help="Passed on to the script.")
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one value of the recipe."),
]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="As `heliostat job list` shows it.")]


@job_app.command("submit", context_settings={"allow_interspersed_args": False})
def job_submit(
    entrypoint: Entrypoint,
    recipe: Recipe = None,
    assignments: Assignments = None,
    *,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for its end.")] = False,
    on: Annotated[
        str | None,
        typer.Option(
            metavar="TARGET",
            help="A cluster: eks, gke, aks, onprem, or MODULE:FUNCTION of your recipe. "
            "Runs the code of its image.",
        ),
    ] = None,
    context: Annotated[str | None, typer.Option(help="kubectl's context, with --on.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --on: print the RayJob, and stop.")
    ] = False,
) -> None:
    """Send what git tracks, run a script of it as a job, follow it, and exit as it does."""
    if on is None:
        submit(entrypoint, recipe, assignments, detached=detach)
    raise typer.Exit(
        _on_cluster(str(on), _words(entrypoint, recipe, assignments), context, dry_run)
    )


@job_app.command("list")
def job_list(*, as_json: AsJson = False) -> None:
    """List jobs submitted from this clone, the oldest first, also those of a Ray that is gone."""
    from heliostat.submit import jobs

    found = jobs.refresh(home_root())
    if as_json:
        typer.echo(json.dumps([asdict(record) for record in found], indent=2))
        return
    as_table(
        ("job", "submitted", "status", "exit", "sent", "runs"),
        [
            (
                record.submission_id,
                record.submitted_at[:19],
                record.status,
                "-" if record.exit_code is None else str(record.exit_code),
                size(record.size_bytes),
                record.entrypoint,
            )
            for record in found
        ],
    )


@job_app.command("logs")
def job_logs(
    job: JobId,
    *,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the job ends, and exit as it does.")
    ] = False,
) -> None:
    """Print what a job has printed, also when Ray is gone."""
    from heliostat.submit import jobs

    if follow:
        raise typer.Exit(jobs.follow(home_root(), job))
    typer.echo(jobs.logs(home_root(), job), nl=False)


@job_app.command("stop")
def job_stop(job: JobId) -> None:
    """Stop a job and wait for its end."""
    from heliostat.submit import jobs

    jobs.stop(home_root(), job, say=say)


def submit(
    entrypoint: list[str],
    recipe: str | None,
    assignments: list[str] | None,
    *,
    detached: bool = False,
) -> None:
    """Submit and leave with the job's exit code."""
    from heliostat.stack.settings import find_repository
    from heliostat.submit import client

    repository = find_repository(Path.cwd())
    words = _words(entrypoint, recipe, assignments)
    raise typer.Exit(client.run(words, repository=repository, home=home_root(), detached=detached))


def _words(entrypoint: list[str], recipe: str | None, assignments: list[str] | None) -> list[str]:
    """Give script and arguments, the recipe checked before anything starts."""
    from heliostat.stack.settings import find_repository

    words = list(entrypoint)
    if recipe:
        resolve(find_repository(Path.cwd()), recipe, assignments)
        words += ["--recipe", recipe]
    for text in assignments or []:
        words += ["--set", text]
    return words


def _on_cluster(target: str, words: list[str], context: str | None, is_dry_run: bool) -> int:
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


def resolve(repository: Path, recipe: str, assignments: list[str] | None) -> Any:
    """Build the config of a run, so that a mistake in it is refused before anything starts."""
    from heliostat import config

    sys.path.insert(0, str(repository))
    return config.override(config.load(recipe), assignments or [])


def keep_logs() -> None:
    """Bring the archive up to date before Ray goes away; a Ray that hangs is not waited for."""
    from heliostat.submit import jobs

    root = home_root()
    thread = threading.Thread(target=lambda: jobs.refresh(root), daemon=True)
    thread.start()
    thread.join(_KEEP_LOGS_S)
