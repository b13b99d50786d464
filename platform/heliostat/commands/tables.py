"""`heliostat table`: look at versioned tables and keep them small."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from heliostat.commands import shown
from heliostat.commands.place import AsJson
from heliostat.commands.shown import At, Name

table_app = typer.Typer(
    help="Look at versioned tables and keep them small.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@table_app.command("list")
def table_list(*, at: At = None, as_json: AsJson = False) -> None:
    """List all tables with their sizes, and what upkeep would save."""
    from heliostat.data.upkeep import TARGET_BYTES, bins, plan_vacuum

    catalog = shown.catalog(at)
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
        shown.as_json(found)
        return
    shown.as_table(
        ["table", "version", "rows", "files", "size", "optimize leaves", "vacuum frees"],
        [
            [
                item["table"], str(item["version"]), f"{item['rows']:,}", f"{item['files']:,}",
                shown.size(item["bytes"]), f"{item['files_after_optimize']:,}",
                shown.size(item["bytes_freed_by_vacuum"]),
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

    catalog = shown.catalog(at)
    files = catalog.active(name, version)
    number = catalog.version(name) if version is None else version
    assert number is not None
    entry = log.read(catalog._folder(name), number)
    found = {
        "table": name,
        "version": number,
        "at": None if entry is None else entry.at.isoformat(),
        "made_by": None if entry is None else entry.operation,
        "run": None if entry is None else entry.run_id,
        "rows": sum(file.num_rows for file in files),
        "files": len(files),
        "bytes": sum(file.size_bytes for file in files),
        "partition_by": sorted({column for file in files for column, _ in file.partition}),
        "columns": {column: str(kind) for column, kind in catalog.schema(name, number).items()},
        "details": {} if entry is None else entry.details,
        "citations": [asdict(item) for item in citations(catalog, name)],
    }
    if as_json:
        shown.as_json(found)
        return
    for key in ("table", "version", "at", "made_by", "run", "rows", "files"):
        typer.echo(f"{key:<12} {found[key]}")
    typer.echo(f"{'size':<12} {shown.size(sum(file.size_bytes for file in files))}")
    typer.echo(f"{'partitions':<12} {', '.join(found['partition_by']) or 'none'}")  # type: ignore[arg-type]
    for column, kind in catalog.schema(name, number).items():
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
    entries = shown.catalog(at).history(name, limit)
    if as_json:
        shown.as_json(
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
    shown.as_table(
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

    found = diff(shown.catalog(at), name, from_version, to_version, keys=key or ())
    kinds = {
        "inserted": found.rows_inserted, "deleted": found.rows_deleted,
        "updated": found.rows_updated,
    }  # fmt: skip
    if as_json:
        shown.as_json(
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

    made = restore(shown.catalog(at), name, version, run_id=shown.run_id("restore"))
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
        shown.catalog(at), name, run_id=shown.run_id("optimize"), target_bytes=target_mib * 2**20
    )
    if as_json:
        shown.as_json(asdict(report))
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

    catalog = shown.catalog(at)
    sweep = plan_vacuum(catalog, name, now=datetime.now(UTC), retention=timedelta(days=days))
    if yes:
        vacuum(catalog, sweep)
    if as_json:
        shown.as_json({**asdict(sweep), "removed": yes})
        return
    verb = "removed" if yes else "would go"
    typer.echo(f"{name}: {len(sweep.files):,} files, {shown.size(sweep.num_bytes)} {verb}")
    typer.echo(f"  versions from {sweep.oldest_version} on stay")
    for item in sweep.cited:
        typer.echo(f"  version {item.version} stays: cited by {item.by}")
    if not yes and sweep.files:
        typer.echo("  remove them with --yes")
