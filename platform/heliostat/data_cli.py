"""The commands about data: `heliostat table`, `heliostat contract` and `heliostat lineage`."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from heliostat.data.tables import Catalog
    from heliostat.lineage.graph import Graph

table_app = typer.Typer(
    help="Look at versioned tables and keep them small.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

contract_app = typer.Typer(
    help="Draft contracts and look at what they found.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
lineage_app = typer.Typer(
    help="Ask what a thing was made of, and what was made from it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
At = Annotated[
    str | None,
    typer.Option(
        "--at", metavar="PATH|URL",
        help="Folder of the tables, or its URL; the platform's own if left out.",
    ),
]  # fmt: skip
Name = Annotated[str, typer.Argument(metavar="TABLE", help="As `heliostat table list` names it.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.add_typer(table_app, name="table")
    app.add_typer(contract_app, name="contract")
    app.add_typer(lineage_app, name="lineage")


@table_app.command("list")
def table_list(*, at: At = None, as_json: AsJson = False) -> None:
    """List all tables with their sizes, and what upkeep would save."""
    from heliostat.data.upkeep import TARGET_BYTES, bins, plan_vacuum

    catalog = _catalog(at)
    found: list[dict[str, Any]] = []
    for name in catalog.names():
        files = catalog.active(name)
        sweep = plan_vacuum(catalog, name, now=datetime.now(UTC), retention=timedelta(days=7))
        saved = sum(len(group) - 1 for group in bins(files, TARGET_BYTES))
        found.append(
            {
                "table": name,
                "version": catalog.version(name),
                "rows": sum(file.num_rows for file in files),
                "files": len(files),
                "bytes": sum(file.size_bytes for file in files),
                "files_after_optimize": len(files) - saved,
                "bytes_freed_by_vacuum": sweep.num_bytes,
                "cited_versions": sorted({item.version for item in sweep.cited}),
            }
        )
    if as_json:
        _print_json(found)
        return
    _print_table(
        ["table", "version", "rows", "files", "size", "optimize leaves", "vacuum frees"],
        [
            [
                item["table"], str(item["version"]), f"{item['rows']:,}", f"{item['files']:,}",
                size(item["bytes"]), f"{item['files_after_optimize']:,}",
                size(item["bytes_freed_by_vacuum"]),
            ]
            for item in found
        ],
    )  # fmt: skip


@table_app.command("show")
def table_show(
    name: Name,
    *,
    version: Annotated[int | None, typer.Option(help="Which one; the newest if left out.")] = None,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Show a version's columns, partitions, sizes, and who cites which version."""
    from heliostat.data import log
    from heliostat.data.citations import citations

    catalog = _catalog(at)
    files = catalog.active(name, version)
    shown = catalog.version(name) if version is None else version
    assert shown is not None
    entry = log.read(catalog._folder(name), shown)
    found = {
        "table": name,
        "version": shown,
        "at": None if entry is None else entry.at.isoformat(),
        "made_by": None if entry is None else entry.operation,
        "run": None if entry is None else entry.run_id,
        "rows": sum(file.num_rows for file in files),
        "files": len(files),
        "bytes": sum(file.size_bytes for file in files),
        "partition_by": sorted({column for file in files for column, _ in file.partition}),
        "columns": {column: str(kind) for column, kind in catalog.schema(name, shown).items()},
        "details": {} if entry is None else entry.details,
        "citations": [asdict(item) for item in citations(catalog, name)],
    }
    if as_json:
        _print_json(found)
        return
    for key in ("table", "version", "at", "made_by", "run", "rows", "files"):
        typer.echo(f"{key:<12} {found[key]}")
    typer.echo(f"{'size':<12} {size(sum(file.size_bytes for file in files))}")
    typer.echo(f"{'partitions':<12} {', '.join(found['partition_by']) or 'none'}")  # type: ignore[arg-type]
    for column, kind in catalog.schema(name, shown).items():
        typer.echo(f"  {column:<24} {kind}")
    for item in citations(catalog, name):
        typer.echo(f"version {item.version} is cited by {item.by} since {item.at[:19]}")


@table_app.command("history")
def table_history(
    name: Name,
    *,
    limit: Annotated[int, typer.Option(help="At most so many versions.", min=1)] = 20,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Say what made each version, the newest first."""
    entries = _catalog(at).history(name, limit)
    if as_json:
        _print_json(
            [
                {
                    "version": entry.version, "at": entry.at.isoformat(),
                    "operation": entry.operation, "run": entry.run_id,
                    "rows_added": entry.rows_added, "files_added": len(entry.added),
                    "files_removed": len(entry.removed), "details": entry.details,
                }
                for entry in entries
            ]
        )  # fmt: skip
        return
    _print_table(
        ["version", "at", "operation", "run", "rows added", "files"],
        [
            [
                str(entry.version), f"{entry.at:%Y-%m-%d %H:%M:%S}", entry.operation,
                entry.run_id or "-", f"{entry.rows_added:,}",
                f"+{len(entry.added)} -{len(entry.removed)}",
            ]
            for entry in entries
        ],
    )  # fmt: skip


@table_app.command("diff")
def table_diff(
    name: Name,
    from_version: Annotated[int, typer.Argument(metavar="FROM")],
    to_version: Annotated[int, typer.Argument(metavar="TO")],
    *,
    key: Annotated[
        list[str] | None, typer.Option(help="Column that names a row; repeat it for more.")
    ] = None,
    rows: Annotated[int, typer.Option(help="Show so many rows of each kind.", min=0)] = 5,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Say which columns and rows differ between two versions."""
    from heliostat.data.diff import diff

    found = diff(_catalog(at), name, from_version, to_version, keys=key or ())
    kinds = {
        "inserted": found.rows_inserted, "deleted": found.rows_deleted,
        "updated": found.rows_updated,
    }  # fmt: skip
    if as_json:
        _print_json(
            {
                "table": name, "from": from_version, "to": to_version,
                "files_added": found.files_added, "files_removed": found.files_removed,
                "columns_added": found.columns_added, "columns_removed": found.columns_removed,
                "columns_retyped": found.columns_retyped,
                **{f"rows_{kind}": frame.height for kind, frame in kinds.items()},
                "examples": {kind: frame.head(rows).to_dicts() for kind, frame in kinds.items()},
            }
        )  # fmt: skip
        return
    typer.echo(f"{name}: version {from_version} to {to_version}")
    for word in ("added", "removed", "retyped"):
        columns = getattr(found, f"columns_{word}")
        if columns:
            typer.echo(f"  columns {word}: {', '.join(columns)}")
    for kind, frame in kinds.items():
        typer.echo(f"  rows {kind}: {frame.height:,}")
        for row in frame.head(rows).iter_rows():
            typer.echo(f"    {row}")


@table_app.command("restore")
def table_restore(
    name: Name, version: Annotated[int, typer.Argument(metavar="VERSION")], *, at: At = None
) -> None:
    """Make an old version the newest one; it can be undone the same way."""
    from heliostat.data.restore import restore

    made = restore(_catalog(at), name, version, run_id=_run_id("restore"))
    typer.echo(f"{name}: version {made} holds what version {version} held")


@table_app.command("optimize")
def table_optimize(
    name: Name,
    *,
    target_mib: Annotated[int, typer.Option(help="Size of a file to aim at, in MiB.", min=1)] = 128,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Put small files together; no row changes and old versions stay."""
    from heliostat.data.upkeep import optimize

    report = optimize(
        _catalog(at), name, run_id=_run_id("optimize"), target_bytes=target_mib * 2**20
    )
    if as_json:
        _print_json(asdict(report))
        return
    typer.echo(
        f"{name}: {report.files_before:,} files are {report.files_after:,} in version "
        f"{report.version}; vacuum frees the old ones when they may go"
    )


@table_app.command("vacuum")
def table_vacuum(
    name: Name,
    *,
    days: Annotated[float, typer.Option(help="Versions this young stay readable.", min=0)] = 7.0,
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove; else only say what would go.")
    ] = False,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Remove files that no kept version needs; versions that models cite are always kept."""
    from heliostat.data.upkeep import plan_vacuum, vacuum

    catalog = _catalog(at)
    sweep = plan_vacuum(catalog, name, now=datetime.now(UTC), retention=timedelta(days=days))
    if yes:
        vacuum(catalog, sweep)
    if as_json:
        _print_json({**asdict(sweep), "removed": yes})
        return
    verb = "removed" if yes else "would go"
    typer.echo(f"{name}: {len(sweep.files):,} files, {size(sweep.num_bytes)} {verb}")
    typer.echo(f"  versions from {sweep.oldest_version} on stay")
    for item in sweep.cited:
        typer.echo(f"  version {item.version} stays: cited by {item.by}")
    if not yes and sweep.files:
        typer.echo("  remove them with --yes")


@contract_app.command("infer")
def contract_infer(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, JSON lines or Parquet.")],
    table: Annotated[str, typer.Option(help="Name of the table to be.")],
    *,
    rows: Annotated[int, typer.Option(help="Look at so many rows at most.", min=1)] = 1_000_000,
    as_json: AsJson = False,
) -> None:
    """Draft a contract from a file, as Python to edit."""
    from heliostat.config import to_json
    from heliostat.data.infer import head, infer, source_text

    drafted = infer(head(file, rows), table)
    typer.echo(to_json(drafted) if as_json else source_text(drafted))


@contract_app.command("history")
def contract_history(name: Name, *, at: At = None, as_json: AsJson = False) -> None:
    """List the versions of a table's contract and what each changed."""
    found: dict[int, dict[str, Any]] = {}
    for entry in _catalog(at).entries(name):
        kept = entry.details.get("contract")
        if isinstance(kept, dict):
            found[kept["version"]] = {
                "contract_version": kept["version"], "since_table_version": entry.version,
                "at": entry.at.isoformat(), "changes": kept["changes"],
            }  # fmt: skip
    rows = [found[version] for version in sorted(found, reverse=True)]
    if as_json:
        _print_json(rows)
        return
    for row in rows:
        typer.echo(
            f"contract {row['contract_version']}, since table version "
            f"{row['since_table_version']} of {row['at'][:19]}"
        )
        for change in row["changes"]:
            typer.echo(f"  {change}")


@contract_app.command("report")
def contract_report(
    name: Name,
    out: Annotated[Path, typer.Option(help="Where to write the page.")],
    *,
    version: Annotated[int | None, typer.Option(help="Which one; the newest if left out.")] = None,
    at: At = None,
) -> None:
    """Write the page of an ingest: rows, refusals and columns with pictures."""
    from heliostat.data import contract_report as reports
    from heliostat.errors import ConfigError

    catalog = _catalog(at)
    for entry in catalog.entries(name):
        wanted = version is None or entry.version == version
        if wanted and entry.run_id is not None and "ingest" in entry.details:
            page = catalog._folder(name).read(reports.path(entry.run_id))
            if page is not None:
                out.write_bytes(page)
                typer.echo(f"{name}: the page of version {entry.version} is {out}")
                return
    raise ConfigError(f"table {name}.version", version, "must be one that an ingest made")


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

    home = _home()
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
        _print_json(
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


def size(num_bytes: int) -> str:
    """Write a number of bytes for people.

    >>> [size(n) for n in (0, 2047, 5 * 2**20, 3 * 2**40)]
    ['0 B', '2.0 KiB', '5.0 MiB', '3,072.0 GiB']
    """
    if num_bytes < 1024:
        return f"{num_bytes} B"
    value = float(num_bytes)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024 or unit == "GiB":
            break
    return f"{value:,.1f} {unit}"


def _catalog(at: str | None) -> Catalog:
    from heliostat.data.storage import is_url
    from heliostat.data.tables import Catalog

    if at is None:
        return Catalog(_home() / "tables")
    if not is_url(at):
        return Catalog(Path(at).absolute())
    stores = ("AWS_", "GOOGLE_", "AZURE_")
    return Catalog(
        at, options={key: value for key, value in os.environ.items() if key.startswith(stores)}
    )


def _home() -> Path:
    from heliostat.stack.settings import find_repository, home_root

    return home_root(os.environ, find_repository(Path.cwd()))


def _run_id(verb: str) -> str:
    return f"{verb}-{uuid.uuid4().hex[:12]}"


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))


def _print_table(header: list[str], rows: list[list[str]]) -> None:
    from heliostat.pipeline.layout import table

    for line in table(header, rows):
        typer.echo(line)
