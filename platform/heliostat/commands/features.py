"""`heliostat features`: which features there are, how fresh they are, and whether they agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heliostat.commands import shown
from heliostat.commands.place import AsJson, home_root

if TYPE_CHECKING:
    from heliostat.features.catalogue import ViewEntry
    from heliostat.features.intervals import Interval
    from heliostat.features.stores import Store
    from heliostat.store.home import Home

features_app = typer.Typer(
    help="Find features, see how fresh they are, and compare online with offline.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Online = Annotated[
    str,
    typer.Option(
        "--online", metavar="file|URL", help="The online store: the platform's file, or a server."
    ),
]


@features_app.command("list")
def features_list(*, online: Online = "file", as_json: AsJson = False) -> None:
    """List feature views: version, owner, freshness, and the models that use them."""
    _listed(None, online, as_json=as_json)


@features_app.command("search")
def features_search(
    word: Annotated[str, typer.Argument(metavar="WORD", help="In names, words, keys or owner.")],
    *,
    online: Online = "file",
    as_json: AsJson = False,
) -> None:
    """List the feature views that mention a word."""
    _listed(word, online, as_json=as_json)


@features_app.command("describe")
def features_describe(
    view: Annotated[str, typer.Argument(metavar="VIEW", help="A name, or project/name.")],
    *,
    online: Online = "file",
    as_json: AsJson = False,
) -> None:
    """Say all about one view: every version of it, its features, and who uses which."""
    from heliostat.features import catalogue

    home = _home()
    found = catalogue.find(catalogue.views(home.feast), view)
    rows = _rows(home, found, online)
    if as_json:
        shown.as_json(rows)
        return
    for entry, row in zip(found, rows, strict=True):
        state = f"read by {', '.join(entry.services)}" if entry.services else "replaced"
        typer.echo(f"{entry.project}/{entry.name} version {entry.version}, {state}")
        stored = entry.source is None
        for name, value in (
            ("description", entry.description or "-"),
            ("owner", entry.owner or "-"),
            ("keys", ", ".join(entry.keys) or "-"),
            ("made from", ", ".join(entry.inputs)),
            ("lives", "for ever" if entry.ttl_s is None else f"{entry.ttl_s:,.0f} s"),
            ("first seen", entry.first_seen),
            ("newest event", row["newest_event"] or ("-" if entry.services else "replaced")),
            ("online up to", row["online_up_to"] or "-"),
            ("models", _models_said(row["models"])),
        ):
            if stored or name not in {"lives", "newest event", "online up to", "keys"}:
                typer.echo(f"  {name:<13} {value}")
        for item in entry.columns:
            typer.echo(f"    {item.name:<28} {item.dtype:<8} {item.description}".rstrip())
        for line in (entry.source or "").splitlines():
            typer.echo(f"    {line}")


@features_app.command("parity")
def features_parity(
    service: Annotated[
        str | None, typer.Argument(metavar="[PROJECT/SERVICE]", help="All where left out.")
    ] = None,
    *,
    online: Online = "file",
    entities: Annotated[int, typer.Option(min=1, help="Sample of each view.")] = 50,
    seed: Annotated[int, typer.Option(help="The same seed takes the same sample.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Compare online, offline and a plain loop on a sample; exit 3 where they differ."""
    from heliostat.data.tables import Catalog
    from heliostat.errors import ConfigError, nearest
    from heliostat.features import catalogue, parity

    home = _home()
    defined = catalogue.services(home.feast)
    if service is not None and service not in defined:
        raise ConfigError(
            "service", service, "must be defined", breaks=nearest(service, defined),
            next_step=None if defined else "Run the features stage first",
        )  # fmt: skip
    reports = {}
    for name in [service] if service is not None else list(defined):
        digest, views = defined[name]
        project, _, short = name.partition("/")
        store = _store(home, online, project)
        filled = _last(store, short, digest)
        if filled is None:
            raise ConfigError(
                f"online store {online}", name, "must be filled with these definitions first",
                next_step="Materialize them: heliostat submit --recipe MODULE:FUNCTION -- jobs/materialize.py",
            )  # fmt: skip
        catalog = Catalog(home.tables / views[0].tables)
        if filled.below is not None:
            catalog = catalog.below(filled.below)
        reports[name] = parity.check(
            views, catalog, store, at=filled.end, versions=filled.versions, entities=entities,
            seed=seed,
        )  # fmt: skip
    if as_json:
        shown.as_json({name: asdict(report) for name, report in reports.items()})
    else:
        for name, report in reports.items():
            typer.echo(f"{name} as of {report.at.isoformat()}: {report}")
            for line in report.examples:
                typer.echo(f"  {line}")
    for name, report in reports.items():
        report.require_equal(name)


def _home() -> Home:
    from heliostat.store.home import Home

    return Home(root=home_root().absolute())


def _store(home: Home, online: str, project: str) -> Store:
    from heliostat.features.stores import Store

    return Store(where=online, file=home.online_db, project=project)


def _last(store: Store, service: str, digest: str) -> Interval | None:
    """What the store was last filled with, by these definitions; nothing where it is not there."""
    from heliostat.features import intervals, stores

    if store.where == stores.FILE and not store.file.exists():
        return None
    lines = stores.open_writer(store.where, store.file, store.project).recorded()
    found = intervals.of(lines, service, digest)
    return found[-1] if found else None


def _listed(word: str | None, online: str, *, as_json: bool) -> None:
    from heliostat.features import catalogue

    home = _home()
    found = [
        item for item in catalogue.views(home.feast) if word is None or item.mentions(word)
    ]  # fmt: skip
    rows = _rows(home, found, online)
    if as_json:
        shown.as_json(rows)
        return
    shown.as_table(
        ["view", "version", "keys", "features", "owner", "newest event", "online up to", "models"],
        [
            [
                f"{entry.project}/{entry.name}", entry.version, " ".join(entry.keys),
                str(len(entry.columns)), entry.owner or "-", row["newest_event"] or "-",
                row["online_up_to"] or "-", _models_said(row["models"]),
            ]
            for entry, row in zip(found, rows, strict=True)
        ],
    )  # fmt: skip


def _rows(home: Home, entries: Sequence[ViewEntry], online: str) -> list[dict[str, Any]]:
    """Entries as plain values, with freshness and models; times in whole seconds."""
    from heliostat.data.tables import Catalog
    from heliostat.features import catalogue

    defined = catalogue.services(home.feast)
    ends: dict[tuple[str, str], datetime] = {}
    for name, (digest, views) in defined.items():
        project, _, short = name.partition("/")
        filled = _last(_store(home, online, project), short, digest)
        for view in views if filled is not None else ():
            assert filled is not None
            key = (project, f"{view.name}@{view.version}")
            ends[key] = max(filled.end, ends.get(key, filled.end))
    users = _users(home) if entries else {}
    rows = []
    for entry in entries:
        name = f"{entry.name}@{entry.version}"
        # Only the newest definition's values lie in the table's newest version.
        newest = None
        if entry.services and entry.source is None:
            newest = catalogue.newest_event(Catalog(home.tables / entry.tables), entry.table)
        end = ends.get((entry.project, name))
        rows.append(
            {
                **asdict(entry),
                "newest_event": None if newest is None else _said(newest),
                "online_up_to": None if end is None else _said(end),
                "models": None if users is None else users.get((entry.project, name), []),
            }
        )
    return rows


def _users(home: Home) -> dict[tuple[str, str], list[str]] | None:
    """Registered versions by the view versions that their packages cite; None if MLflow is away."""
    from heliostat.errors import HeliostatError
    from heliostat.registry.package import PackageDescription
    from heliostat.registry.tracking import Tracking
    from heliostat.registry.versions import Registry
    from heliostat.stack import local

    found: dict[tuple[str, str], list[str]] = {}
    try:
        registry = Registry(
            Tracking(local.client_variables(home.root)["MLFLOW_TRACKING_URI"]), home
        )
        versions = [item for name in registry.models() for item in registry.list(name)]
        for item in versions:
            package = registry.get(item.model, item.version).path
            service = PackageDescription.read(Path(package)).features
            if service is None:
                continue
            for name, digest in service.versions:
                users = found.setdefault((service.project, f"{name}@{digest}"), [])
                users.append(f"{item.model}@{item.version}")
    except HeliostatError as error:
        typer.echo(f"models are not known: {error}", err=True)
        return None
    return found


def _models_said(models: Sequence[str] | None) -> str:
    return "?" if models is None else " ".join(models) or "-"


def _said(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds")
