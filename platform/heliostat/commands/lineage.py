"""`heliostat lineage`: what a thing was made of, and what was made from it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heliostat.commands import shown
from heliostat.commands.place import AsJson, home_root

if TYPE_CHECKING:
    from heliostat.lineage.graph import Graph

lineage_app = typer.Typer(
    help="Ask what a thing was made of, and what was made from it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@lineage_app.command("up")
def lineage_up(
    name: Annotated[str, typer.Argument(metavar="ID", help="Request id, model, table or file.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Say what a prediction, model or table was made of, down to files and code."""
    _lineage(name, "up", as_json=as_json)


@lineage_app.command("down")
def lineage_down(
    name: Annotated[str, typer.Argument(metavar="ID", help="File, table or model.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Say what was made from a file, table or model, and which predictions used it."""
    _lineage(name, "down", as_json=as_json)


def _lineage(text: str, direction: str, *, as_json: bool) -> None:
    from heliostat.errors import ConfigError
    from heliostat.lineage.graph import Graph

    home = home_root()
    graph = Graph.read(home / "lineage" / "events.jsonl")
    try:
        starts = graph.find(text)
    except ConfigError:
        starts = _predicted_by(home, graph, text)
        if not starts:
            raise
    steps = graph.up(starts) if direction == "up" else graph.down(starts)
    nodes = [*starts, *(step.node for step in steps)]
    predictions = _predictions(home, nodes) if direction == "down" else {}
    if as_json:
        shown.as_json(
            {
                "id": text,
                "starts": starts,
                "steps": [asdict(step) for step in steps],
                "predictions": predictions,
            }
        )
        return
    typer.echo(f"{text}: {', '.join(starts)}")
    for step in steps:
        code = f" (code {step.revision[:12]})" if step.revision else ""
        typer.echo(f"{'  ' * step.depth}{step.node}  by {step.stage}{code}")
    for node, count in predictions.items():
        typer.echo(f"{count:,} predictions by {node}")


def _predicted_by(home: Path, graph: Graph, request_id: str) -> list[str]:
    """The model version that answered a request, by the gateways' own records."""
    from heliostat.monitoring import exposures

    models = {node[6:].rpartition("@")[0] for node in graph.nodes() if node.startswith("model:")}
    return [
        f"model:{model}@{found.version}"
        for model in sorted(models)
        for found in exposures.read(home / "spool", model=model, request_prefix=request_id)
        if found.request_id == request_id
    ][:1]


def _predictions(home: Path, nodes: list[str]) -> dict[str, int]:
    """How many requests each of the model versions among the nodes answered."""
    from heliostat.monitoring import exposures

    versions = {node for node in nodes if node.startswith("model:")}
    found = dict.fromkeys(sorted(versions), 0)
    for model in sorted({node[6:].rpartition("@")[0] for node in versions}):
        for item in exposures.read(home / "spool", model=model):
            node = f"model:{model}@{item.version}"
            if node in found:
                found[node] += 1
    return found
