"""Feature values as of a time: views computed and training sets joined by Ray tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from heliostat.config import require
from heliostat.data.tables import Catalog
from heliostat.features.definitions import EVENT_TIMESTAMP, FeatureService, FeatureView

if TYPE_CHECKING:
    import polars as pl

ROWS_PER_TASK = 250_000
"""More rows are split by a hash of their keys, up to four parts per CPU."""


def build_view(
    view: FeatureView, catalog: Catalog, *, run_id: str, rows_per_task: int = ROWS_PER_TASK
) -> int:
    """Compute a view from the newest versions of its inputs and store it as its table.

    Where the view names `partition_by`, the inputs are split by a hash of those keys and the
    parts are computed in parallel. Exactly once per run: repeated, it gives the same version.

    Returns:
        The version of the table ``features/<view>``.

    Raises:
        ConfigError: An input does not exist, or `compute` returns other columns than declared.
    """
    import ray

    done = catalog.commit_of(view.table, run_id)
    if done is not None:
        return done.version
    versions = {name: _newest(catalog, name) for name in view.inputs}
    split = [
        name for name in view.inputs if set(view.partition_by) <= set(catalog.schema(name))
    ] if view.partition_by else []  # fmt: skip
    require(
        bool(split) or not view.partition_by,
        f"view {view.name}.partition_by",
        view.partition_by,
        f"must be columns of at least one of {view.inputs}",
    )
    rows = sum(catalog.num_rows(name, versions[name]) for name in split)
    parts = _num_parts(rows, rows_per_task)
    task = ray.remote(_compute_part)
    answers = ray.get(
        [
            task.options(name=f"view:{view.name}").remote(
                view, catalog, versions, split, part, parts, run_id
            )
            for part in range(parts)
        ]
    )
    staged = [answer["staged"] for answer in answers if answer["staged"] is not None]
    return catalog.commit(
        view.table,
        staged,
        answers[0]["schema"],
        run_id=run_id,
        mode="overwrite",
        inputs=versions,
        details={
            "view": view.digest(),
            "rows_without_key": sum(answer["rows_without_key"] for answer in answers),
        },
    )


def training_set(
    service: FeatureService,
    entities: pl.DataFrame,
    catalog: Catalog,
    *,
    versions: Mapping[str, int] | None = None,
    rows_per_task: int = ROWS_PER_TASK,
) -> pl.DataFrame:
    """Join every feature to the entity rows as it was known at each row's time.

    Rows, their order, repeated rows and null keys are kept; a null or unknown key has null
    features. See `point_in_time.join` for which value counts.

    Args:
        service: The views to join.
        entities: The service's keys, what its on-demand views want from a request,
            ``event_timestamp`` (the prediction time, with time zone) and any other columns,
            which are kept.
        catalog: Where the views' tables are.
        versions: Version of each view's table by view name; the newest where absent.

    Returns:
        The entity columns, then every feature in the service's order, on-demand ones last.

    Raises:
        ConfigError: A view was never built, the entity rows do not fit, or an on-demand view's
            function fails on a row.
    """
    import polars as pl
    import ray

    from heliostat.features.frames import entity_rows
    from heliostat.features.point_in_time import ROW

    rows = entity_rows(entities, service)
    numbered = rows.with_row_index(ROW)
    parts = _num_parts(rows.height, rows_per_task)
    task = ray.remote(_join_part)
    pending: dict[Any, int] = {}
    for index, view in enumerate(service.views):
        version = (versions or {}).get(view.name, _newest(catalog, view.table))
        wanted = numbered.select(ROW, *view.keys, EVENT_TIMESTAMP)
        for share in _split(wanted, view.keys, parts):
            reference = task.options(name=f"join:{view.name}").remote(
                view, catalog, version, share[0], parts, ray.put(share[1].to_arrow())
            )
            pending[reference] = index
    found: dict[int, list[pl.DataFrame]] = {}
    for reference, index in pending.items():
        found.setdefault(index, []).append(_frame(ray.get(reference)))
    columns = [pl.concat(found[index]).sort(ROW).drop(ROW) for index in sorted(found)]
    return with_on_demand(pl.concat([rows, *columns], how="horizontal"), service)


def with_on_demand(rows: pl.DataFrame, service: FeatureService) -> pl.DataFrame:
    """Add the service's on-demand features to rows that have the features of its views.

    Raises:
        ConfigError: A function fails on a row, or returns something else than it declares.
    """
    import polars as pl

    from heliostat.features.frames import DTYPES
    from heliostat.features.on_demand import Transform

    added = []
    for view in service.on_demand:
        kinds = service.input_types(view)
        transform = Transform(
            name=view.name, source=view.source, inputs=kinds,
            features={item.name: item.dtype for item in view.features},
        )  # fmt: skip
        found = transform.columns({name: rows[name].to_list() for name in kinds})
        added += [pl.Series(i.name, found[i.name], DTYPES[i.dtype]) for i in view.features]
    return rows.with_columns(added)


def _compute_part(
    view: FeatureView,
    catalog: Catalog,
    versions: Mapping[str, int],
    split: Sequence[str],
    part: int,
    parts: int,
    run_id: str,
) -> dict[str, Any]:
    from heliostat.features.frames import view_rows

    inputs = {}
    for name in view.inputs:
        frame = catalog.read(name, versions[name])
        if parts > 1 and name in split:
            frame = frame.filter(part_of(view.partition_by, parts) == part)
        inputs[name] = frame
    rows, without_key = view_rows(view.compute(inputs), view)
    staged = catalog.stage(view.table, rows, run_id=run_id, part=part) if rows.height else None
    return {
        "staged": staged,
        "schema": rows.head(0).to_arrow().schema,
        "rows_without_key": without_key,
    }


def _join_part(
    view: FeatureView, catalog: Catalog, version: int, part: int, parts: int, entities: Any
) -> Any:
    from heliostat.features.point_in_time import join

    values = catalog.read(view.table, version)
    if parts > 1:
        values = values.filter(part_of(view.keys, parts) == part)
    return join(_frame(entities), values, view).to_arrow()


def _split(rows: pl.DataFrame, keys: Sequence[str], parts: int) -> list[tuple[int, pl.DataFrame]]:
    if parts == 1:
        return [(0, rows)]
    numbered = rows.with_columns(part_of(keys, parts).alias("__part"))
    shares = numbered.partition_by("__part", as_dict=True, include_key=False)
    return [(int(part), share) for (part,), share in shares.items()]


def part_of(keys: Sequence[str], parts: int) -> pl.Expr:
    """Number of the part, of so many, that a row's keys belong to."""
    import polars as pl

    # The text form makes the part of a key the same for every integer width.
    return pl.struct(pl.col(key).cast(pl.String) for key in keys).hash(seed=0) % parts


def _num_parts(rows: int, rows_per_task: int) -> int:
    import ray

    cpus = int(ray.cluster_resources().get("CPU", 1))
    return max(1, min(-(-rows // rows_per_task), 4 * cpus))


def _newest(catalog: Catalog, name: str) -> int:
    version = catalog.version(name)
    require(version is not None, "table", name, "must exist before features are computed from it")
    assert version is not None
    return version


def _frame(table: Any) -> pl.DataFrame:
    import polars as pl

    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame
