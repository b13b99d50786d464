"""Versioned tables on Delta: tasks stage Parquet files, one commit makes them visible."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from heliostat.config import require, require_name
from heliostat.data import commits, log, pii, reading, staging, storage, told
from heliostat.data.commits import Change
from heliostat.data.log import Entry
from heliostat.data.reading import ActiveFile
from heliostat.data.schema_rules import widen
from heliostat.data.staging import StagedFile, require_run
from heliostat.errors import ConfigError, HeliostatError, nearest

if TYPE_CHECKING:
    import polars as pl
    import ray.data
    from deltalake import DeltaTable

    from heliostat.data.storage import Storage
    from heliostat.lineage.events import Lineage

Mode = Literal["overwrite", "append"]
Where = Mapping[str, Sequence[object]]


class _Arrow(Protocol):
    def __arrow_c_schema__(self) -> object: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """One version of a table and who made it."""

    version: int

    run_id: str

    details: dict[str, Any]
    """What the writer stored with the commit."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """Every table under one folder or URL, by name; names may contain ``/``.

    A version is whole or absent: readers never see staged files. Plain to pickle, so tasks
    take it along. Building it touches nothing.
    """

    root: Path | str
    """Local folder, or the URL of one in an object store: ``s3://bucket/tables``."""

    options: Mapping[str, str] = field(default_factory=dict, repr=False, kw_only=True)
    """deltalake's storage options of the object store, as ``AWS_ENDPOINT_URL``."""

    lineage: Lineage | None = field(default=None, repr=False, compare=False, kw_only=True)
    """Told of each version that is committed and each dataset that is opened here, with what it is
    known to be made from; a job that tells more itself needs none."""

    def below(self, folder: str) -> Catalog:
        """Open the catalog in a folder below this one, with nothing pinned or sealed."""
        inside = f"{self.root}/{folder}" if storage.is_url(self.root) else Path(self.root) / folder
        return Catalog(inside, options=self.options, lineage=self.lineage)

    def version(self, name: str) -> int | None:
        """Newest version of the table, or None if there is no such table."""
        table = self._open(name, to_read=True)
        return None if table is None else table.version()

    def names(self) -> list[str]:
        """Every table's name, sorted."""
        if not storage.is_url(self.root):
            root = Path(self.root)
            logs = root.rglob("_delta_log") if root.exists() else ()
            return sorted(str(log.parent.relative_to(root)) for log in logs)
        return storage.folders_with(self.root, "_delta_log", self.options)

    def schema(self, name: str, version: int | None = None) -> pl.Schema:
        """Column names and types of a version (the newest if None)."""
        import polars as pl

        return pl.Schema(reading.schema(self._existing(name, version)))

    def active(self, name: str, version: int | None = None) -> list[ActiveFile]:
        """The files of a version (the newest if None), with their rows, sizes and partitions."""
        return reading.active(self._existing(name, version))

    def files(
        self, name: str, version: int | None = None, where: Where | None = None
    ) -> list[Path]:
        """The Parquet files of a version (the newest if None), in a stable order.

        Args:
            name: Table on local disk.
            version: Which one.
            where: Only files that may hold these values of partition columns.
        """
        where = where or {}
        return [
            Path(self._folder(name).readable(file.location))
            for file in self.active(name, version)
            if staging.matches(file.staged, where)
        ]

    def num_rows(self, name: str, version: int | None = None) -> int:
        """Rows of a version (the newest if None), without reading them."""
        return sum(file.num_rows for file in self.active(name, version))

    def read(
        self,
        name: str,
        version: int | None = None,
        columns: Sequence[str] | None = None,
        where: Where | None = None,
    ) -> pl.DataFrame:
        """Read a version (the newest if None) whole; each commit's rows keep their order.

        Args:
            name: Table.
            version: Which one.
            columns: Only these, in this order.
            where: Only rows with one of these values in each column named; files of other
                partitions are not opened.

        Raises:
            ConfigError: The table, the version or a column does not exist.
            HeliostatError: A file of the version is gone.
        """
        table = self._existing(name, version)
        schema = reading.schema(table)
        for column in (*(columns or ()), *(where or ())):
            require(
                column in schema, f"table {name}.columns", column, "must exist",
                breaks=nearest(column, schema),
            )  # fmt: skip
        wanted = list(columns) if columns is not None else list(schema)
        return reading.read(self._folder(name), table, wanted, where or {})

    def dataset(
        self, name: str, version: int | None = None, where: Where | None = None
    ) -> ray.data.Dataset:
        """Open a version (the newest if None) with Ray Data; nothing is read yet.

        With `where`, files of other partitions are left out; rows are not filtered.
        """
        import ray.data

        folder = self._folder(name)
        table = self._existing(name, version)
        paths = [
            folder.readable(file.location)
            for file in reading.active(table)
            if staging.matches(file.staged, where or {})
        ]
        told.read(self, name, table.version())
        if not paths:
            return ray.data.from_arrow(reading.empty(reading.schema(table)).to_arrow())
        # The files hold every column themselves, so that no path is taken for a value.
        return ray.data.read_parquet(
            paths, filesystem=folder.filesystem, partitioning=None, schema=reading.arrow(table)
        )

    def stage(self, name: str, frame: pl.DataFrame, *, run_id: str, part: int) -> StagedFile:
        """Write one file of a coming version; safe to repeat, in any process.

        The name is made of run, part and content, so that a repeated task writes the same
        file and never changes one that a version holds. `commit` makes it visible; files
        that no commit names are never read.
        """
        require_run(run_id)
        return staging.stage(self._made(name), frame, run_id=run_id, part=part)

    def staged(self, name: str, run_id: str) -> dict[int, StagedFile]:
        """Files that a run has staged so far, by part; see `staging.staged`."""
        require_run(run_id)
        return staging.staged(self._folder(name), run_id)

    def storage(self, name: str) -> Storage:
        """The table's folder."""
        return self._folder(name)

    def stage_partitions(
        self,
        name: str,
        frame: pl.DataFrame,
        *,
        run_id: str,
        part: int,
        partition_by: Sequence[str],
    ) -> tuple[StagedFile, ...]:
        """Write one file per partition that the rows fall into; none for no rows."""
        require_run(run_id)
        return staging.stage_partitions(
            self._made(name), frame, run_id=run_id, part=part, partition_by=partition_by
        )

    def commit(
        self,
        name: str,
        files: Sequence[StagedFile],
        schema: _Arrow,
        *,
        run_id: str,
        mode: Mode,
        details: dict[str, Any] | None = None,
        partition_by: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        inputs: Mapping[str, int] | None = None,
    ) -> int:
        """Make staged files a new version of the table, exactly once per run and table.

        A run that has committed to this table before gets that version again and changes
        nothing, whatever it brings now. Two writers at once commit one after the other, each on
        what the other left; neither's rows mix with the other's.

        Args:
            name: Table; made if absent.
            files: What `stage` returned; may be empty, for a table without rows.
            schema: Columns of the version, as a Polars or Arrow schema.
            run_id: Who writes; kept in the table.
            mode: ``overwrite`` replaces all rows, and the columns too; ``append`` adds rows, and
                columns that the table lacks.
            details: Plain values to store with the commit, read by `commit_of`.
            partition_by: Columns by which `files` were staged; an existing table's are kept.
            tags: Kind of personal data by column.
            inputs: Versions of the tables that the rows were made from; kept with the commit.
                Their columns' tags go to columns of the same name.

        Raises:
            ConfigError: Appended columns lack one of the table's or differ in type, or the
                partition columns differ.
            HeliostatError: A staged file is gone.
        """
        columns = reading.delta_schema(schema)
        names = [item.name for item in columns.fields]
        known = {**pii.carried(self, names, inputs or {}), **(tags or {})}
        columns = pii.tagged(columns, known)
        if inputs:
            details = {"inputs": dict(inputs), **(details or {})}

        def plan(_: DeltaTable | None) -> Change:
            return Change(
                add=tuple(files), mode=mode, columns=columns, partition_by=tuple(partition_by)
            )

        return self.transact(name, plan, run_id=run_id, operation=mode, details=details)

    def transact(
        self,
        name: str,
        plan: Callable[[DeltaTable | None], Change],
        *,
        run_id: str,
        operation: str,
        details: dict[str, Any] | None = None,
    ) -> int:
        """Commit what `plan` makes of the newest version, exactly once per run and table.

        Where another writer was faster, `plan` is called again with what it left, until the
        commit stands on exactly the version that was planned for.

        Args:
            name: Table.
            plan: Given the open table, or None if there is none; may stage files.
            run_id: Who writes; a run that has committed before gets that version again.
            operation: What `history` calls it.
            details: Plain values to store with the commit.
        """
        require_run(run_id)
        while True:
            # One handle for both: what it shows of this run is what the commit stands on.
            table = self._open(name)
            found = None if table is None else self._commit_in(name, table, run_id)
            if found is not None:
                # Told again where a kill may have come before it was told.
                told.commit(self, operation, name, found)
                return found.version
            change = plan(table)
            try:
                commits.attempt(
                    name,
                    self._made(name),
                    table,
                    change,
                    run_id=run_id,
                    details={"operation": operation, **(details or {})},
                )
            except HeliostatError:
                # Another try of this run may have committed and swept this one's files.
                if self.commit_of(name, run_id) is None:
                    raise
                continue

    def write(
        self,
        name: str,
        frame: pl.DataFrame,
        *,
        run_id: str,
        mode: Mode = "overwrite",
        partition_by: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        inputs: Mapping[str, int] | None = None,
    ) -> int:
        """Write one frame as a new version and return it; exactly once per run and table.

        Appended columns of a narrower type than the table's are widened, as int32 to int64.
        """
        if mode == "append":
            table = self._open(name)
            frame = frame if table is None else widen(frame, reading.schema(table))
        files = self.stage_partitions(name, frame, run_id=run_id, part=0, partition_by=partition_by)
        return self.commit(
            name, files, frame.head(0).to_arrow().schema, run_id=run_id, mode=mode, partition_by=partition_by, tags=tags, inputs=inputs,
        )  # fmt: skip

    def commit_of(self, name: str, run_id: str) -> Commit | None:
        """Find what the run committed to the table, or None if it has not."""
        table = self._open(name)
        return None if table is None else self._commit_in(name, table, run_id)

    def _commit_in(self, name: str, table: DeltaTable, run_id: str) -> Commit | None:
        number = table.transaction_version(run_id)
        if number is None:
            return None
        folder = self._folder(name)
        entry = log.read(folder, number)
        if entry is None or entry.run_id != run_id:
            entries = log.newest_first(folder, table.version())
            entry = next((item for item in entries if item.run_id == run_id), None)
        if entry is None:
            # Its entry was cleaned up, with the versions before the oldest that is kept.
            return Commit(version=number, run_id=run_id, details={})
        return Commit(version=entry.version, run_id=run_id, details=entry.details)

    def history(self, name: str, limit: int | None = None) -> list[Entry]:
        """What made each version, the newest first; at most `limit` of them."""
        return list(islice(self.entries(name), limit))

    def entries(self, name: str) -> Iterator[Entry]:
        """What made each version, the newest first, read one by one."""
        newest = self._existing(name, None).version()
        yield from log.newest_first(self._folder(name), newest)

    def sweep(self, name: str, run_id: str) -> int:
        """Remove what a run staged and its commit does not hold, of this try or a killed one.

        Only a run that has committed is swept: from then on, no try of it can commit anything.

        Returns:
            How many files are gone; 0 for a run that has not committed.
        """
        found = self.commit_of(name, run_id)
        entry = None if found is None else log.read(self._folder(name), found.version)
        if entry is None or entry.run_id != run_id:
            return 0
        return staging.sweep(self._folder(name), run_id, tuple(entry.added))

    def _made(self, name: str) -> Storage:
        folder = self._folder(name)
        folder.make()
        return folder

    def _folder(self, name: str) -> Storage:
        for part in name.split("/"):
            require_name("table name", part)
        return storage.folder(self.root, name, self.options)

    def _open(self, name: str, *, to_read: bool = False) -> DeltaTable | None:
        return reading.open_table(self._folder(name), to_read=to_read)

    def _existing(self, name: str, version: int | None) -> DeltaTable:
        # An older version is reached from a table that has its whole log.
        table = self._open(name, to_read=version is None)
        if table is None:
            raise ConfigError("table", name, "must exist", breaks=nearest(name, self.names()))
        if version is not None:
            newest = table.version()
            require(
                0 <= version <= newest,
                f"table {name}.version",
                version,
                f"must be a version of the table, 0 to {newest}",
            )
            if version != newest:
                reading.travel(name, table, version)
        return table
