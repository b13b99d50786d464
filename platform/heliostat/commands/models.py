"""The commands about registered versions: `heliostat model`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heliostat.commands.place import AsJson, controller, home_root
from heliostat.commands.shown import as_table

if TYPE_CHECKING:
    from heliostat.registry.summary import VersionSummary
    from heliostat.registry.versions import Registry
    from heliostat.store.home import Home

model_app = typer.Typer(
    help="Look at registered model versions, check them, and make one stable.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Model = Annotated[str, typer.Argument(metavar="MODEL")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="A number, or an alias.")]


_EDGE_ROWS = 20_000


@model_app.command("list")
def model_list(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]")] = None,
    *,
    as_json: AsJson = False,
) -> None:
    """List versions, oldest first: number, aliases, digest, run."""
    _, registry = _registry()
    names = [model] if model is not None else registry.models()
    found = [version for name in names for version in registry.list(name)]
    rows = [
        {
            "model": item.model,
            "version": item.version,
            "aliases": list(item.aliases),
            "digest": item.digest,
            "run_id": item.run_id,
        }
        for item in found
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    as_table(
        ("model", "version", "aliases", "digest", "run"),
        [
            (item.model, item.version, " ".join(item.aliases) or "-", item.digest[:19], item.run_id)
            for item in found
        ],
    )


@model_app.command("show")
def model_show(model: Model, version: Version, *, as_json: AsJson = False) -> None:
    """Verify one version, then say what it was made of and how it did."""
    summary = _summary(model, version)
    if as_json:
        typer.echo(json.dumps(summary.to_dict(), indent=2))
        return
    for name, value in (
        ("model", f"{summary.model} version {summary.version}"),
        ("aliases", " ".join(summary.aliases) or "-"),
        ("digest", summary.digest),
        ("MLflow run", summary.run_id),
        ("code", summary.revision),
        ("inputs", f"{summary.num_numeric} numeric, {summary.num_categorical} categorical"),
        ("features", summary.features or "given in the request"),
        ("tables", ", ".join(f"{name}@{number}" for name, number in summary.tables.items())),
    ):
        typer.echo(f"{name:<11} {value}")
    for rows, metrics in summary.metrics.items():
        typer.echo(f"measured on {rows}:")
        for name, figure in metrics.items():
            typer.echo(f"  {name:<20} {_figure(figure)}")
    for gate in summary.gates:
        outcome = (
            "met" if gate["met"] else f"waived: {gate['waived']}" if gate["waived"] else "refused"
        )
        typer.echo(f"gate {gate['name']}: {gate['metric']} {_figure(gate['saw'])}, {outcome}")


@model_app.command("card")
def model_card(model: Model, version: Version) -> None:
    """Print the model card, in Markdown."""
    _, registry = _registry()
    found = registry.get(model, _number(registry, model, version))
    typer.echo((found.path / "card.md").read_text(encoding="utf-8").rstrip())


@model_app.command("compare")
def model_compare(
    model: Model,
    first: Annotated[str, typer.Argument(metavar="VERSION")],
    second: Annotated[str, typer.Argument(metavar="VERSION")],
    *,
    as_json: AsJson = False,
) -> None:
    """Put the metrics of two versions side by side; each was measured on rows of its own."""
    from heliostat.registry.summary import compare

    one, two = _summary(model, first), _summary(model, second)
    found = compare(one, two)
    if as_json:
        rows = [
            {
                "metric": item.metric,
                "first": item.first,
                "second": item.second,
                "change": item.change,
            }
            for item in found
        ]
        typer.echo(json.dumps(rows, indent=2))
        return
    as_table(
        ("metric", f"version {one.version}", f"version {two.version}", "change"),
        [
            (item.metric, _figure(item.first), _figure(item.second), _figure(item.change))
            for item in found
        ],
    )
    typer.echo(
        f"measured on {max(one.metrics, default='-')}, and on {max(two.metrics, default='-')}"
    )


@model_app.command("verify")
def model_verify(
    model: Annotated[str, typer.Argument(metavar="MODEL|FOLDER")],
    version: Annotated[str | None, typer.Argument(metavar="[VERSION]")] = None,
) -> None:
    """Check a version, or a package in a folder, against the trusted keys; exit 3 if it fails."""
    from heliostat.registry import signing

    home, registry = _registry()
    if version is None:
        typer.echo(signing.verify(Path(model), home.keys))
        return
    typer.echo(registry.get(model, _number(registry, model, version)).digest)


@model_app.command("export")
def model_export(
    model: Model,
    version: Version,
    to: Annotated[Path, typer.Option("--edge", metavar="FOLDER", help="A new folder.")],
    table: Annotated[
        str, typer.Option(metavar="TABLE", help="Rows to compare on: a column for each input.")
    ] = "examples",
    *,
    tolerance: Annotated[float, typer.Option(help="Largest change of an answer.")] = 0.01,
    as_json: AsJson = False,
) -> None:
    """Write a signed bundle for devices: quantised if it stays right, run by onnxruntime alone."""
    from heliostat.data.tables import Catalog
    from heliostat.inference import columns, edge
    from heliostat.registry.package import PackageDescription

    home, registry = _registry()
    found = registry.get(model, _number(registry, model, version))
    inputs = PackageDescription.read(found.path).inputs
    rows = Catalog(home.tables / model).read(table, columns=[item.name for item in inputs])
    numeric_BN, categorical_BC = columns.encode(rows.head(_EDGE_ROWS), inputs)
    report = edge.export(
        found.path, home.keys, to,
        numeric_BN=numeric_BN, categorical_BC=categorical_BC, tolerance=tolerance,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps({**asdict(report), "folder": str(report.folder)}, indent=2))
        return
    kind = "quantised" if report.quantised else "not quantised"
    typer.echo(f"{report.folder}: {report.digest}")
    typer.echo(f"  {kind}: {report.because}, over {report.rows:,} rows")
    typer.echo(f"  one row: {report.latency_ms:.3f} ms, before {report.latency_before_ms:.3f} ms")
    typer.echo(f"  try it: python {report.folder / 'predict.py'} < rows.jsonl")


@model_app.command("promote")
def model_promote(model: Model, version: Version) -> None:
    """Make a version stable at once, without a rollout: all traffic goes to it."""
    _, registry = _registry()
    found = registry.get(model, _number(registry, model, version))
    controller().deploy(model, found.version)
    typer.echo(f"{model} version {found.version} answers everything")


def _registry() -> tuple[Home, Registry]:
    """Connect to the platform that is up."""
    from heliostat.registry.tracking import Tracking
    from heliostat.registry.versions import Registry
    from heliostat.stack import local
    from heliostat.store.home import open_home

    home = open_home(home_root())
    uri = local.client_variables(home.root)["MLFLOW_TRACKING_URI"]
    return home, Registry(Tracking(uri), home)


def _number(registry: Registry, model: str, version: str) -> str:
    """Resolve an alias; a number stays as it is."""
    if version.isdecimal():
        return version
    found = registry.by_alias(model, version)
    return version if found is None else found.version


def _summary(model: str, version: str) -> VersionSummary:
    from heliostat.registry.summary import summarise

    _, registry = _registry()
    return summarise(registry.get(model, _number(registry, model, version)))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


@model_app.command("pack")
def model_pack(
    model: Model,
    version: Version,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write the tar file.")],
) -> None:
    """Write a version's signed package as one file, for another platform to receive."""
    from heliostat.registry import transfer

    _, registry = _registry()
    digest = transfer.pack(registry.get(model, _number(registry, model, version)), registry, out)
    typer.echo(f"{out}: {digest}")


@model_app.command("receive")
def model_receive(
    archive: Annotated[Path, typer.Argument(metavar="FILE", help="Of `heliostat model pack`.")],
) -> None:
    """Verify a package that arrived with the keys trusted here, and register it."""
    from heliostat.registry import transfer

    _, registry = _registry()
    found = transfer.receive(archive, registry)
    typer.echo(f"{found.model} version {found.version}: {found.digest}")
