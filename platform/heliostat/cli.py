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

from heliostat import __version__, model_cli
from heliostat.data_cli import commands as data_commands
from heliostat.errors import HeliostatError

if TYPE_CHECKING:
    from heliostat.control.client import ControlClient
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
rollout_app = typer.Typer(
    help="Start, watch, explain and steer rollouts.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(rollout_app, name="rollout")
data_commands.register(app)
model_cli.register(app)

Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting: ports.mlflow=5001."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


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
    found = local.up(home, repository, settings, environ_now=os.environ, say=_say)
    for name, url in found.urls.items():
        typer.echo(f"  {name:<10} {url}")


@app.command()
def down() -> None:
    """End everything that `up` started, also after a crash; safe to repeat."""
    from heliostat.stack import local

    _, home, _ = _place(None)
    local.down(home, say=_say)


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
) -> None:
    """Run a script as a Ray job on the platform, follow it, and exit as it does."""
    from heliostat.submit import client

    repository, home, _ = _place(None)
    arguments = list(entrypoint)
    if recipe:
        _resolve(repository, recipe, assignments)
        arguments += ["--recipe", recipe]
    for text in assignments or []:
        arguments += ["--set", text]
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


@rollout_app.command("list")
def rollout_list(*, as_json: AsJson = False) -> None:
    """List rollouts, the newest first."""
    rows = _controller().rollouts()
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        typer.echo("  ".join(str(row.get(key, "")) for key in ("id", "model", "state", "step")))


Id = Annotated[str, typer.Argument(metavar="ID")]
Because = Annotated[str, typer.Option(help="The reason, kept with the event.")]


@rollout_app.command("status")
def rollout_status(rollout_id: Id, *, as_json: AsJson = True) -> None:
    """Print one rollout as JSON: its state, weights, gates and events with reasons."""
    del as_json  # there is no other form; the option is what every command has
    typer.echo(json.dumps(_controller().rollout(rollout_id), indent=2))


@rollout_app.command("plan")
def rollout_plan(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The plan as JSON.")],
    *,
    requests_per_s: Annotated[float, typer.Option(help="Traffic of the model.")],
    as_json: AsJson = False,
) -> None:
    """Check a plan and print its steps and the least time that each takes at this traffic."""
    from heliostat.rollout import forecast

    found = forecast.forecast(_plan(file), requests_per_s)
    if as_json:
        typer.echo(json.dumps(forecast.to_dict(found), indent=2))
        return
    for line in forecast.words(found):
        typer.echo(line)


@rollout_app.command("start")
def rollout_start(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The plan as JSON.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Start a rollout by its plan and print its id."""
    rollout_id = _controller().start(_plan(file).to_dict())
    typer.echo(json.dumps({"id": rollout_id}) if as_json else rollout_id)


@rollout_app.command("history")
def rollout_history(rollout_id: Id, *, as_json: AsJson = False) -> None:
    """List everything that happened to a rollout, with reasons."""
    events = _controller().rollout(rollout_id)["events"]
    if as_json:
        typer.echo(json.dumps(events, indent=2))
        return
    for event in events:
        typer.echo(f"{event['seconds']:8.1f} s  {event['kind']}: {event['reason'] or ''}")


@rollout_app.command("explain")
def rollout_explain(rollout_id: Id, *, as_json: AsJson = False) -> None:
    """Say in words where a rollout stands and why, with the numbers."""
    from heliostat.control import explain

    lines = explain.explain(_controller().rollout(rollout_id))
    typer.echo(json.dumps(lines, indent=2) if as_json else "\n".join(lines))


@rollout_app.command("watch")
def rollout_watch(rollout_id: Id) -> None:
    """Follow a rollout to its end; exit 3 unless it was promoted."""
    import time

    from heliostat.control import explain

    control, shown = _controller(), 0
    while True:
        rollout = control.rollout(rollout_id)
        for event in rollout["events"][shown:]:
            typer.echo(f"{event['seconds']:8.1f} s  {event['kind']}: {event['reason'] or ''}")
        shown = len(rollout["events"])
        if rollout["ended_at"]:
            break
        _say(f"            {explain.standing(rollout)}")
        time.sleep(2.0)
    if rollout["state"] != "promoted":
        raise typer.Exit(3)


@rollout_app.command("pause")
def rollout_pause(
    rollout_id: Id, *, because: Because = "on request", as_json: AsJson = False
) -> None:
    """Take no further step; harm is still acted on."""
    _told(_controller().tell(rollout_id, "pause", because), as_json)


@rollout_app.command("resume")
def rollout_resume(
    rollout_id: Id, *, because: Because = "on request", as_json: AsJson = False
) -> None:
    """Let steps be taken again."""
    _told(_controller().tell(rollout_id, "resume", because), as_json)


@rollout_app.command("approve")
def rollout_approve(
    rollout_id: Id, *, because: Because = "on request", as_json: AsJson = False
) -> None:
    """Allow the candidate to leave the present step once its gates pass."""
    _told(_controller().tell(rollout_id, "approve", because), as_json)


@rollout_app.command("promote")
def rollout_promote(
    rollout_id: Id, *, because: Because = "on request", as_json: AsJson = False
) -> None:
    """Waive hold times and approvals; no gate is waived and no step is skipped."""
    _told(_controller().tell(rollout_id, "promote", because), as_json)


@rollout_app.command("freeze")
def rollout_freeze(model: str, *, because: Because, as_json: AsJson = False) -> None:
    """Let no rollout of the model start or move on; harm is still taken back."""
    _told(_controller().freeze(model, because), as_json)


@rollout_app.command("thaw")
def rollout_thaw(model: str, *, as_json: AsJson = False) -> None:
    """End a freeze."""
    _told(_controller().freeze(model, None), as_json)


@rollout_app.command("audit")
def rollout_audit(*, as_json: AsJson = False) -> None:
    """Check the hash chain of every event; exit 3 if any was tampered with."""
    found = _controller().audit()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        for name, count in found["events"].items():
            typer.echo(f"{name}: {count} events, unbroken")
        for problem in found["tampered"].values():
            typer.echo(problem)
    if found["tampered"]:
        raise typer.Exit(3)


@rollout_app.command("abort")
def rollout_abort(rollout_id: Id) -> None:
    """Give all traffic back to the stable version; safe to repeat."""
    typer.echo(json.dumps(_controller().abort(rollout_id), indent=2))


def _plan(file: Path) -> Any:
    from heliostat.errors import ConfigError
    from heliostat.rollout.plan import CanaryPlan

    try:
        return CanaryPlan.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(
            "FILE", str(file), "must be a readable JSON file", breaks=str(error)
        ) from error


def _told(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        typer.echo(
            "  ".join(f"{key}: {value}" for key, value in answer.items() if value is not None)
        )


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


def _resolve(repository: Path, recipe: str, assignments: list[str] | None) -> Any:
    """Build the config of a run, so that a mistake in it is refused before anything starts."""
    from heliostat import config

    sys.path.insert(0, str(repository))
    return config.override(config.load(recipe), assignments or [])


def _controller() -> ControlClient:
    from heliostat.control.client import ControlClient
    from heliostat.stack import local

    _, home, _ = _place(None)
    return ControlClient(
        endpoint=local.client_variables(home)["HELIOSTAT_ENDPOINT"],
        api_key=os.environ.get("HELIOSTAT_API_KEY"),
    )


def _say(line: str) -> None:
    typer.echo(line)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
