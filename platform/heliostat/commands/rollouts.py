"""The commands about rollouts: `heliostat rollout`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from heliostat.commands import simulating, watching
from heliostat.commands.place import AsJson, controller

rollout_app = typer.Typer(
    help="Start, watch, explain and steer rollouts.", no_args_is_help=True, rich_markup_mode=None
)

Id = Annotated[str, typer.Argument(metavar="ID")]
Because = Annotated[str, typer.Option(help="The reason, kept with the event.")]


rollout_app.command("simulate")(simulating.simulate)
rollout_app.command("watch")(watching.watch)


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
    begun = controller().begin(read_plan(file).to_dict())
    if as_json:
        typer.echo(json.dumps({"id": begun["id"], "warnings": begun["warnings"]}))
        return
    for warning in begun["warnings"]:
        typer.echo(f"warning: {warning}", err=True)
    typer.echo(begun["id"])


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


@rollout_app.command("report")
def rollout_report(
    rollout_id: Id,
    *,
    out: Annotated[Path, typer.Option(help="Folder for report.md and picture.svg.")],
    as_json: AsJson = False,
) -> None:
    """Write a rollout's or A/B test's report as Markdown with a picture."""
    from heliostat.control import report

    made = report.report(controller().rollout(rollout_id))
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.md").write_text(made.markdown, encoding="utf-8")
    (out / "picture.svg").write_text(made.picture, encoding="utf-8")
    path = str(out / "report.md")
    typer.echo(json.dumps({"report": path}) if as_json else path)


@rollout_app.command("return")
def rollout_return(model: str, *, because: Because, as_json: AsJson = False) -> None:
    """Make the last good version of a model stable again at once, without steps."""
    _told(controller().go_back(model, because), as_json)


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
