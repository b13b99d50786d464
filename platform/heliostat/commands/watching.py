"""`heliostat rollout watch`: a live view on a terminal, one line per event anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heliostat.commands.place import controller, say
from heliostat.errors import Unavailable

if TYPE_CHECKING:
    from rich.console import Group

_EVERY_S = 1.0
_EVENTS_SHOWN = 8
_BAR = 40
_COLOURS = {"pass": "green", "fail": "red", "error": "red", "inconclusive": "yellow"}


def watch(rollout_id: Annotated[str, typer.Argument(metavar="ID")]) -> None:
    """Follow a rollout to its end; exit 3 unless it was promoted, or concluded as planned."""
    rollout = _live(rollout_id) if sys.stdout.isatty() else _lines(rollout_id)
    if rollout["state"] not in ("promoted", "concluded"):
        raise typer.Exit(3)


def _lines(rollout_id: str) -> dict[str, Any]:
    from heliostat.control import explain

    control, shown = controller(), 0
    while True:
        rollout = control.rollout(rollout_id)
        for event in rollout["events"][shown:]:
            typer.echo(f"{event['seconds']:8.1f} s  {event['kind']}: {event['reason'] or ''}")
        shown = len(rollout["events"])
        if rollout["ended_at"]:
            return rollout
        say(f"            {explain.standing(rollout)}")
        time.sleep(2 * _EVERY_S)


def _live(rollout_id: str) -> dict[str, Any]:
    from rich.live import Live

    control = controller()
    rollout = control.rollout(rollout_id)
    with Live(drawn(rollout), refresh_per_second=4) as live:
        while not rollout["ended_at"]:
            time.sleep(_EVERY_S)
            try:
                rollout = control.rollout(rollout_id)
            except Unavailable as problem:
                # It restarts within seconds; whoever watches wants to see it come back.
                live.update(drawn(rollout, str(problem)))
            else:
                live.update(drawn(rollout))
    return rollout


def drawn(rollout: Mapping[str, Any], problem: str = "") -> Group:
    """The view of one moment: where it stands, the split, each gate, the last events."""
    from rich.console import Group
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    from heliostat.control import explain

    share = float(rollout["share_percent"])
    filled = round(share / 100 * _BAR)
    bar = Text.assemble(
        (f"{rollout['candidate']:>8} ", "bold"), ("█" * filled, "blue"),
        ("░" * (_BAR - filled), "dim"), f" {share:g} %  stable {rollout['stable']}",
    )  # fmt: skip
    gates = Table(box=None, show_header=False, pad_edge=False)
    for gate in rollout["gates"]:
        colour = _COLOURS[gate["verdict"]]
        verdict = f"[{colour}]{gate['verdict']}[/]"
        gates.add_row(f"  {escape(gate['gate'])}", verdict, escape(gate["because"]))
    events = Table(box=None, show_header=False, pad_edge=False)
    for event in rollout["events"][-_EVENTS_SHOWN:]:
        kind = event["kind"].removeprefix("rollout.").replace("_", " ")
        by = event.get("by") or ""
        who = "" if by in ("", "controller") else f" ({by})"
        events.add_row(
            f"  {event['seconds']:.1f} s", escape(kind + who), escape(event["reason"] or "")
        )
    parts: list[Any] = [Text(explain.standing(rollout), style="bold"), bar, gates, events]
    if problem:
        parts.append(Text(problem, style="red"))
    return Group(*parts)
