"""The commands about rollouts: `heliostat rollout`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from heliostat.commands import simulating
from heliostat.commands.place import AsJson, controller, say

rollout_app = typer.Typer(
    help="Start, watch, explain and steer rollouts.", no_args_is_help=True, rich_markup_mode=None
)

Id = Annotated[str, typer.Argument(metavar="ID")]
Because = Annotated[str, typer.Option(help="The reason, kept with the event.")]


rollout_app.command("simulate")(simulating.simulate)


@rollout_app.command("list")
def rollout_list(*, as_json: AsJson = False) -> None:
    """List rollouts, the newest first."""
    rows = controller().rollouts()
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        typer.echo("  ".join(str(row.get(key, "")) for key in ("id", "model", "state", "step")))


@rollout_app.command("status")
def rollout_status(rollout_id: Id, *, as_json: AsJson = True) -> None:
    """Print one rollout as JSON: its state, weights, gates and events with reasons."""
    del as_json  # there is no other form; the option is what every command has
    typer.echo(json.dumps(controller().rollout(rollout_id), indent=2))


@rollout_app.command("plan")
def rollout_plan(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The plan as JSON.")],
    *,
    requests_per_s: Annotated[
        float | None,
        typer.Option(help="Traffic of the model; default is what the platform sees now."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a plan and print its steps, what it uses, and the least time of each step.

    Nothing is started. Without --requests-per-s the present traffic is asked for.
    """
    from heliostat.errors import ConfigError
    from heliostat.rollout import forecast

    plan = read_plan(file)
    if requests_per_s is None:
        seen = controller().status()["models"].get(plan.model, {}).get("requests_per_s")
        if not seen:
            raise ConfigError(
                "--requests-per-s", None, f"must be given: no traffic of {plan.model} is seen now"
            )
        requests_per_s = float(seen)
    found, used = forecast.forecast(plan, requests_per_s), forecast.resources(plan)
    if as_json:
        told = {**forecast.to_dict(found), "requests_per_s": requests_per_s, "resources": used}
        typer.echo(json.dumps(told, indent=2))
        return
    typer.echo(f"at {requests_per_s:g} requests/s:")
    for line in forecast.words(found):
        typer.echo(line)
    typer.echo("It uses " + "; ".join(used) + ".")


@rollout_app.command("start")
def rollout_start(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The plan as JSON.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Start a rollout by its plan and print its id."""
    rollout_id = controller().start(read_plan(file).to_dict())
    typer.echo(json.dumps({"id": rollout_id}) if as_json else rollout_id)


@rollout_app.command("history")
def rollout_history(rollout_id: Id, *, as_json: AsJson = False) -> None:
    """List everything that happened to a rollout, with reasons."""
    events = controller().rollout(rollout_id)["events"]
    if as_json:
        typer.echo(json.dumps(events, indent=2))
        return
    for event in events:
        typer.echo(f"{event['seconds']:8.1f} s  {event['kind']}: {event['reason'] or ''}")


@rollout_app.command("explain")
def rollout_explain(rollout_id: Id, *, as_json: AsJson = False) -> None:
    """Say in words where a rollout stands and why, with the numbers."""
    from heliostat.control import explain

    lines = explain.explain(controller().rollout(rollout_id))
    typer.echo(json.dumps(lines, indent=2) if as_json else "\n".join(lines))


@rollout_app.command("watch")
def rollout_watch(rollout_id: Id) -> None:
    """Follow a rollout to its end; exit 3 unless it was promoted."""
    import time

    from heliostat.control import explain

    control, shown = controller(), 0
    while True:
        rollout = control.rollout(rollout_id)
        for event in rollout["events"][shown:]:
            typer.echo(f"{event['seconds']:8.1f} s  {event['kind']}: {event['reason'] or ''}")
        shown = len(rollout["events"])
        if rollout["ended_at"]:
            break
        say(f"            {explain.standing(rollout)}")
        time.sleep(2.0)
    if rollout["state"] != "promoted":
        raise typer.Exit(3)


@rollout_app.command("pause")
def rollout_pause(
    rollout_id: Id, *, because: Because = "on request", as_json: AsJson = False
) -> None:
    """Take no further step; harm is still acted on."""
    _told(controller().tell(rollout_id, "pause", because), as_json)


@rollout_app.command("resume")
def rollout_resume(
    rollout_id: Id, *, because: Because = "on request", as_json: AsJson = False
) -> None:
    """Let steps be taken again."""
    _told(controller().tell(rollout_id, "resume", because), as_json)


@rollout_app.command("approve")
def rollout_approve(
    rollout_id: Id, *, because: Because = "on request", as_json: AsJson = False
) -> None:
    """Allow the candidate to leave the present step once its gates pass."""
    _told(controller().tell(rollout_id, "approve", because), as_json)


@rollout_app.command("promote")
def rollout_promote(
    rollout_id: Id, *, because: Because = "on request", as_json: AsJson = False
) -> None:
    """Waive hold times and approvals; no gate is waived and no step is skipped."""
    _told(controller().tell(rollout_id, "promote", because), as_json)


@rollout_app.command("freeze")
def rollout_freeze(model: str, *, because: Because, as_json: AsJson = False) -> None:
    """Let no rollout of the model start or move on; harm is still taken back."""
    _told(controller().freeze(model, because), as_json)


@rollout_app.command("thaw")
def rollout_thaw(model: str, *, as_json: AsJson = False) -> None:
    """End a freeze."""
    _told(controller().freeze(model, None), as_json)


@rollout_app.command("audit")
def rollout_audit(*, as_json: AsJson = False) -> None:
    """Check the hash chain of every event; exit 3 if any was tampered with."""
    found = controller().audit()
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
    typer.echo(json.dumps(controller().abort(rollout_id), indent=2))


def read_plan(file: Path) -> Any:
    """Read a plan from a JSON file.

    Raises:
        ConfigError: It cannot be read, or the plan cannot be meant.
    """
    from heliostat.errors import ConfigError
    from heliostat.rollout.plan import RolloutPlan

    try:
        return RolloutPlan.from_dict(json.loads(file.read_text(encoding="utf-8")))
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
