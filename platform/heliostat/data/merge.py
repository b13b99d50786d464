"""Update rows by key: files that hold a changed row are written anew, all in one commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from heliostat.config import require
from heliostat.data import reading
from heliostat.data.commits import Change
from heliostat.data.reading import ActiveFile
from heliostat.data.schema_rules import require_appendable, widen
from heliostat.data.staging import StagedFile
from heliostat.data.tables import Catalog

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable

_REWRITTEN = 2**31
"""Parts of rewritten files are numbered from here, so that they never meet those of new rows."""


class Tasks(Protocol):
    """Where the work on each file is done."""

    def map(self, work: Callable[[Any], Any], items: Sequence[Any]) -> Iterable[Any]:
        """Do the work on each item; answers come in any order."""


class InProcess:
    """Does the work here, one item after the other."""

    def map(self, work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[Any]:
        """Do the work on each item, in order."""
        return (work(item) for item in items)


@dataclass(frozen=True, kw_only=True, slots=True)
class MergeReport:
    """What became of every row; ``rows_given == rows_inserted + rows_updated``."""

    table: str
    version: int
    rows_given: int
    rows_inserted: int
    rows_updated: int
    rows_deleted: int
    files_rewritten: int
    files_kept: int
    """Files without a changed row: they are not touched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rewritten:
    file: StagedFile
    matched: int
    """Rows of touched keys."""
    updated: int
    """Those of them that are given anew."""
    staged: tuple[StagedFile, ...]


def merge(
    catalog: Catalog,
    name: str,
    frame: pl.DataFrame,
    *,
    keys: Sequence[str],
    run_id: str,
    delete: pl.DataFrame | None = None,
    tasks: Tasks | None = None,
) -> MergeReport:
    """Insert rows of new keys, replace rows of known ones, and remove rows, exactly once per run.

    All of it is one version. Where another writer commits in between, the merge is made anew on
    what that one left. Rows given fit in memory; the table is worked on file by file.

    Args:
        catalog: Where the table lives.
        name: An existing table, whose keys are unique.
        frame: Rows with the table's columns; each key once. Columns that the table lacks are
            added, and null in all other rows.
        keys: Columns that together name a row; no value of them is null.
        run_id: Who merges.
        delete: Rows of keys to remove; a key that is not there is no error.
        tasks: Where files are rewritten; here if None, or `on_ray.OnRay()`.

    Raises:
        ConfigError: A key is missing, null or there twice, or columns do not fit the table's.
    """
    import polars as pl

    require(bool(keys), "merge.keys", tuple(keys), "must name a column")
    done = catalog.commit_of(name, run_id)
    if done is not None:
        return MergeReport(**{**done.details["merge"], "version": done.version})
    catalog.schema(name)
    gone = frame.select(keys).head(0) if delete is None else delete.select(keys)
    _require_keys(frame, keys)
    touched = pl.concat(
        [frame.select(*keys, given=True), gone.select(*keys, given=False)], how="vertical_relaxed"
    ).unique(keys, keep="first", maintain_order=True)

    def plan(table: DeltaTable | None) -> Change:
        assert table is not None
        rows = widen(frame, reading.schema(table))
        columns = reading.delta_schema(rows.head(0).to_arrow().schema)
        require_appendable(name, reading.delta_types(table.schema()), reading.delta_types(columns))
        partition_by = tuple(table.metadata().partition_columns)
        work = partial(
            _rewrite,
            catalog=catalog, name=name, keys=tuple(keys), touched=touched, run_id=run_id,
            partition_by=partition_by, schema=reading.schema(table),
        )  # fmt: skip
        numbered = list(enumerate(reading.active(table)))
        rewritten = [item for item in (tasks or InProcess()).map(work, numbered) if item]
        staged = catalog.stage_partitions(
            name, rows, run_id=run_id, part=0, partition_by=partition_by
        )
        matched = sum(item.matched for item in rewritten)
        updated = sum(item.updated for item in rewritten)
        report = MergeReport(
            table=name, version=-1, rows_given=frame.height,
            rows_inserted=frame.height - updated, rows_updated=updated,
            rows_deleted=matched - updated, files_rewritten=len(rewritten),
            files_kept=len(numbered) - len(rewritten),
        )  # fmt: skip
        return Change(
            add=(*(file for item in rewritten for file in item.staged), *staged),
            remove=tuple(item.file for item in rewritten),
            mode="replace",
            columns=columns,
            partition_by=partition_by,
            details={"merge": asdict(report)},
        )

    version = catalog.transact(name, plan, run_id=run_id, operation="merge")
    catalog.sweep(name, run_id)
    stored = catalog.commit_of(name, run_id)
    assert stored is not None
    return MergeReport(**{**stored.details["merge"], "version": version})


def _require_keys(frame: pl.DataFrame, keys: Sequence[str]) -> None:
    import polars as pl

    for key in keys:
        require(key in frame.columns, "merge.keys", key, "must be one of the columns")
        nulls = frame[key].null_count()
        require(nulls == 0, f"merge.{key}", None, "must not be missing", breaks=f"{nulls} rows")
    twice = frame.filter(pl.struct(keys).is_duplicated()).select(keys)
    if twice.height:
        require(
            False, f"merge.{', '.join(keys)}", twice.row(0),
            "must be there once: which of its rows to keep is not known",
        )  # fmt: skip


def _rewrite(
    numbered: tuple[int, ActiveFile],
    *,
    catalog: Catalog,
    name: str,
    keys: tuple[str, ...],
    touched: pl.DataFrame,
    run_id: str,
    partition_by: tuple[str, ...],
    schema: dict[str, Any],
) -> _Rewritten | None:
    """Stage a file without its touched rows; None if it has none."""
    number, file = numbered
    folder = catalog._folder(name)
    kinds: Any = {key: schema[key] for key in keys}
    touched = touched.cast(kinds)
    found = reading.read_file(folder, file, kinds).join(touched, on=list(keys), how="inner")
    if not found.height:
        return None
    rows = reading.read_file(folder, file, schema)
    kept = rows.join(touched, on=list(keys), how="anti", maintain_order="left")
    return _Rewritten(
        file=file.staged,
        matched=found.height,
        updated=int(found["given"].sum()),
        staged=catalog.stage_partitions(
            name, kept, run_id=run_id, part=_REWRITTEN + number, partition_by=partition_by
        ),
    )
