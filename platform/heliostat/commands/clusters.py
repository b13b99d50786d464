"""The `heliostat cluster` commands: each is one call and one exit code."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heliostat.commands.place import AsJson
from heliostat.errors import ConfigError, GateRefused, nearest

if TYPE_CHECKING:
    from heliostat.clusters.render import Platform

cluster_app = typer.Typer(
    help="KubeRay clusters: render, check, simulate, price and apply their configs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Recipe = Annotated[str, typer.Option(metavar="MODULE:FUNCTION", help="The cluster's recipe.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one field: cluster.kubernetes=1.36."),
]

Out = Annotated[Path, typer.Option(metavar="FOLDER", help="The target's folder.")]
Paths = Annotated[list[Path], typer.Argument(metavar="PATH...", help="Files or folders of YAML.")]


@cluster_app.command()
def render(recipe: Recipe, out: Out, assignments: Assignments = None) -> None:
    """Write the folder of a recipe; says which files changed."""
    from heliostat.clusters import folder

    changed = folder.write(_rendered(recipe, assignments), out)
    for name in changed:
        typer.echo(f"  {name}")
    typer.echo(f"{len(changed)} files changed in {out}")


@cluster_app.command()
def diff(recipe: Recipe, out: Out, assignments: Assignments = None) -> None:
    """Show what rendering would change; exit 3 where something would."""
    from heliostat.clusters import folder

    text = folder.diff(_rendered(recipe, assignments), out)
    typer.echo(text, nl=False)
    if text:
        raise GateRefused(str(out), "its difference from the recipe", "not empty", "none")


@cluster_app.command()
def check(
    paths: Paths,
    *,
    kubernetes: Annotated[str, typer.Option(help="Minor version of Kubernetes.")] = "1.35",
    whole: Annotated[bool, typer.Option("--whole", help="The files are all there is.")] = False,
    ray_version: Annotated[str | None, typer.Option(help="The pinned Ray.")] = None,
    crds: Annotated[Path | None, typer.Option(help="Folder of CRD files.")] = None,
    source: Annotated[
        list[str] | None, typer.Option(help="Folder in which import paths must be found.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check any manifests offline, yours or others'; exit 2 where something must be mended."""
    from heliostat.clusters import check as checks

    options = checks.Options(
        kubernetes=kubernetes, is_whole=whole, ray_version=ray_version, crds=crds,
        source_roots=tuple(source or ()),
    )  # fmt: skip
    report = checks.check_paths(paths, options)
    if as_json:
        typer.echo(json.dumps([item.to_dict() for item in report.findings], indent=2))
    else:
        for item in report.findings:
            typer.echo(f"{item.level}: [{item.check}] {item}")
        warnings = len(report.findings) - len(report.errors)
        typer.echo(
            f"{report.num_objects} objects in {report.num_files} files: "
            f"{len(report.errors)} errors, {warnings} warnings"
        )
    if report.errors:
        raise typer.Exit(2)


@cluster_app.command()
def simulate(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="File or folder of YAML.")],
    demand: Annotated[
        list[str], typer.Option(metavar="NxKEY=AMOUNT,...", help="What waits: 3xCPU=2,GPU=1.")
    ],
    *,
    gone: Annotated[
        list[str] | None, typer.Option(metavar="GROUP", help="Group without nodes to give.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Only this object: RayService/x.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ask Ray's own autoscaler which groups scale to what, and what can never run."""
    from heliostat.clusters import simulate as simulation

    demands = [simulation.Demand.parse(text) for text in demand]
    clusters = _clusters(path, name)
    outcomes = {
        key: simulation.simulate(cluster, demands, gone=gone or ())
        for key, cluster in clusters.items()
    }
    if as_json:
        rows = {
            key: {
                "launched": dict(item.launched),
                "infeasible": [{"resources": dict(r), "count": n} for r, n in item.infeasible],
            }
            for key, item in outcomes.items()
        }
        typer.echo(json.dumps(rows, indent=2))
    for key, item in {} if as_json else outcomes.items():
        typer.echo(key)
        for group, count in item.launched.items():
            typer.echo(f"  {group:<16} {count}")
        for resources, count in item.infeasible:
            shape = ",".join(f"{k}={v:g}" for k, v in resources.items())
            typer.echo(f"  infeasible       {count}x{shape}")
    if any(item.infeasible for item in outcomes.values()):
        raise typer.Exit(3)


@cluster_app.command()
def cost(
    recipe: Recipe,
    prices: Annotated[Path | None, typer.Option(help="Price table of yours (YAML).")] = None,
    busy: Annotated[float, typer.Option(help="Share of the time at full size, 0-1.")] = 1.0,
    assignments: Assignments = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Price a recipe, with its spot shares, from a price table that you name."""
    from heliostat.clusters import cost as costs

    table = costs.PriceTable.read(prices)
    lines = costs.price(_platform(recipe, assignments).cluster, table, busy_ratio=busy)
    found = costs.to_json(lines, table)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for line in found["pools"]:
        typer.echo(
            f"  {line['pool']:<16} {line['num_nodes']:>7g} nodes {line['per_month']:>12,.2f}"
        )
    typer.echo(f"  {found['per_month']:,.2f} {table.currency} a month")
    typer.echo(f"  prices: {table.source}, {table.date}")


@cluster_app.command()
def apply(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A rendered folder.")],
    context: Annotated[str, typer.Option(help="Context of kubectl; never the current one.")],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Let the server only try.")] = False,
) -> None:
    """Check a folder, then run `kubectl apply -k` on it; refuses findings and example values."""
    from heliostat.clusters import check as checks
    from heliostat.clusters import folder as folders

    report = checks.check_paths([folder], checks.Options())
    for item in report.errors:
        typer.echo(f"{item.level}: [{item.check}] {item}", err=True)
    if report.errors:
        raise ConfigError("FOLDER", str(folder), "must pass `heliostat cluster check`",
                          breaks=f"{len(report.errors)} errors")  # fmt: skip
    raise typer.Exit(folders.kubectl_apply(folder, context=context, dry_run=dry_run))


def _platform(recipe: str, assignments: list[str] | None) -> Platform:
    from heliostat import config
    from heliostat.clusters.render import Platform

    sys.path.insert(0, str(Path.cwd()))
    found = config.override(config.load(recipe), assignments or [])
    if not isinstance(found, Platform):
        raise ConfigError("--recipe", recipe, "must return a heliostat.clusters.render.Platform")
    return found


def _rendered(recipe: str, assignments: list[str] | None) -> dict[str, str]:
    from heliostat.clusters import render as rendering

    platform = _platform(recipe, assignments)
    return rendering.render(platform.cluster, Path.cwd(), dict(platform.jobs))


def _clusters(path: Path, name: str | None) -> dict[str, dict[str, Any]]:
    from heliostat.clusters import check as checks
    from heliostat.clusters import simulate as simulation

    found = simulation.clusters_of(checks.read_bundle([path]))
    if not found:
        raise ConfigError("PATH", str(path), "must hold a Ray cluster")
    if name is not None and name not in found:
        raise ConfigError("--name", name, f"must name an object of {path}",
                          breaks=nearest(name, found))  # fmt: skip
    return found if name is None else {name: found[name]}
