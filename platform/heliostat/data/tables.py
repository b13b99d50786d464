"""Versioned tables on Delta: tasks stage Parquet files, one commit makes them visible."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from heliostat.config import require, require_name
from heliostat.errors import ConfigError, HeliostatError, nearest

if TYPE_CHECKING:
    import polars as pl
    import ray.data
    from deltalake import DeltaTable

Mode = Literal["overwrite", "append"]

_RUN_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")


class _Arrow(Protocol):
    def __arrow_c_schema__(self) -> object: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class StagedFile:
    """A Parquet file that lies in a table's folder and is not part of the table yet."""

    path: str
    """Relative to the table's folder."""

    num_rows: int

    size_bytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """One version of a table and who made it."""

    version: int

    run_id: str

    details: dict[str, Any]
    """What the writer stored with the commit."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """Every table under one folder, by name; names may contain ``/``.

    A version is whole or absent: readers never see staged files. Plain to pickle, so tasks
    take it along. Building it touches no disk.
    """

    root: Path

    def version(self, name: str) -> int | None:
        """Newest version of the table, or None if there is no such table."""
        table = self._open(name)
        return None if table is None else table.version()

    def names(self) -> list[str]:
        """Every table's name, sorted."""
        logs = self.root.rglob("_delta_log") if self.root.exists() else ()
        return sorted(str(log.parent.relative_to(self.root)) for log in logs)

    def schema(self, name: str, version: int | None = None) -> pl.Schema:
        """Column names and types of a version (the newest if None)."""
        import polars as pl

        return pl.Schema(_schema(self._existing(name, version)))

    def files(self, name: str, version: int | None = None) -> list[Path]:
        """The Parquet files of a version (the newest if None), in a stable order."""
        return _files(self._folder(name), self._existing(name, version))

    def num_rows(self, name: str, version: int | None = None) -> int:
        """Rows of a version (the newest if None), without reading them."""
        actions = self._existing(name, version).get_add_actions(flatten=True)
        return sum(actions["num_records"].to_pylist())

    def read(
        self, name: str, version: int | None = None, columns: Sequence[str] | None = None
    ) -> pl.DataFrame:
        """Read a version (the newest if None) whole; each commit's rows keep their order.

        Raises:
            ConfigError: The table, the version or a column does not exist.
        """
        import polars as pl

        table = self._existing(name, version)
        schema = _schema(table)
        for column in columns or ():
            require(
                column in schema, f"table {name}.columns", column, "must exist",
                breaks=nearest(column, schema),
            )  # fmt: skip
        wanted = list(columns) if columns is not None else list(schema)
        frames = [
            pl.read_parquet(path, columns=wanted) for path in _files(self._folder(name), table)
        ]
        if not frames:
            return pl.DataFrame(schema={column: schema[column] for column in wanted})
        return pl.concat(frames, how="vertical").select(wanted)

    def dataset(self, name: str, version: int | None = None) -> ray.data.Dataset:
        """Open a version (the newest if None) with Ray Data; nothing is read yet."""
        import ray.data

        files = self.files(name, version)
        if files:
            return ray.data.read_parquet([str(path) for path in files])
        return ray.data.from_arrow(self.read(name, version).to_arrow())

    def stage(self, name: str, frame: pl.DataFrame, *, run_id: str, part: int) -> StagedFile:
        """Write one file of a coming version; safe to repeat, in any process.

        The name is made of run, part and content, so that a repeated task writes the same
        file and never changes one that a version holds. `commit` makes it visible; files
        that no commit names are never read.
        """
        _require_run(run_id)
        folder = self._folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        frame.write_parquet(buffer, compression="zstd", compression_level=1)
        content = buffer.getbuffer()
        digest = hashlib.blake2b(content, digest_size=6).hexdigest()
        path = folder / f"part-{run_id}-{part:010d}-{digest}.parquet"
        if not path.exists():
            _write_whole(path, content)
        return StagedFile(path=path.name, num_rows=frame.height, size_bytes=len(content))

    def commit(
        self,
        name: str,
        files: Sequence[StagedFile],
        schema: _Arrow,
        *,
        run_id: str,
        mode: Mode,
        details: dict[str, Any] | None = None,
    ) -> int:
        """Make staged files a new version of the table, exactly once per run and table.

        A run that has committed to this table before gets that version again and changes
        nothing, whatever it brings now. Two writers at once: both appends commit, one after
        the other; an overwrite that loses the race is repeated on the newer version.

        Args:
            name: Table; made if absent.
            files: What `stage` returned; may be empty, for a table without rows.
            schema: Columns of the version, as a Polars or Arrow schema.
            run_id: Who writes; kept in the table.
            mode: ``overwrite`` replaces all rows, and the columns too; ``append`` adds rows.
            details: Plain values to store with the commit, read by `commit_of`.

        Raises:
            ConfigError: Appended columns differ from the table's.
            HeliostatError: A staged file is gone.
        """
        from deltalake import CommitProperties, Transaction
        from deltalake.exceptions import CommitFailedError, DeltaError
        from deltalake.transaction import create_table_with_add_actions

        _require_run(run_id)
        folder = self._folder(name)
        actions = [_add_action(folder, file) for file in files]
        properties = CommitProperties(
            custom_metadata={"heliostat": json.dumps({"run": run_id, **(details or {})})},
            app_transactions=[Transaction(run_id, 1)],
        )
        columns = _delta_schema(schema)
        while True:
            table = self._open(name)
            if table is None:
                folder.mkdir(parents=True, exist_ok=True)
                try:
                    create_table_with_add_actions(
                        str(folder), columns, actions, mode="error", commit_properties=properties
                    )
                except DeltaError:
                    if self._open(name) is None:
                        raise
            elif table.transaction_version(run_id) is None:
                if mode == "append":
                    _require_same_columns(name, table, columns)
                try:
                    table.create_write_transaction(
                        list(actions), mode, columns, commit_properties=properties
                    )
                except CommitFailedError:
                    continue
            found = self.commit_of(name, run_id)
            if found is not None:
                return found.version

    def write(
        self, name: str, frame: pl.DataFrame, *, run_id: str, mode: Mode = "overwrite"
    ) -> int:
        """Write one frame as a new version and return it; exactly once per run and table."""
        files = [self.stage(name, frame, run_id=run_id, part=0)] if frame.height else []
        return self.commit(name, files, frame.head(0).to_arrow().schema, run_id=run_id, mode=mode)

    def commit_of(self, name: str, run_id: str) -> Commit | None:
        """Find what the run committed to the table, or None if it has not."""
        table = self._open(name)
        if table is None or table.transaction_version(run_id) is None:
            return None
        # `DeltaTable.history` counts versions down from its own snapshot over the log as it is
        # by then, so that they are wrong while others commit. The log's files say it exactly.
        for version in range(table.version(), -1, -1):
            details = _details(self._folder(name) / "_delta_log" / f"{version:020d}.json")
            if details is not None and details.pop("run") == run_id:
                return Commit(version=version, run_id=run_id, details=details)
        return None

    def _folder(self, name: str) -> Path:
        for part in name.split("/"):
            require_name("table name", part)
        # deltalake 1.6 decodes the path once too often and then does not find its own log.
        require("%" not in str(self.root), "tables folder", str(self.root), "must contain no '%'")
        return self.root / name

    def _open(self, name: str) -> DeltaTable | None:
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        try:
            return DeltaTable(str(self._folder(name)))
        except TableNotFoundError:
            return None

    def _existing(self, name: str, version: int | None) -> DeltaTable:
        table = self._open(name)
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
                table.load_as_version(version)
        return table


def _require_run(run_id: str) -> None:
    require(
        bool(_RUN_ID.match(run_id)),
        "run_id",
        run_id,
        "must be 1 to 128 letters, digits, '_', '.' or '-', beginning with a letter or digit",
    )


def _write_whole(path: Path, content: memoryview) -> None:
    """Write so that the file is never seen in part: a commit may name it right after."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _add_action(folder: Path, file: StagedFile) -> Any:
    from deltalake.transaction import AddAction

    path = folder / file.path
    # deltalake commits a path that does not exist, and readers fail from then on.
    if not path.exists() or path.stat().st_size != file.size_bytes:
        raise HeliostatError(f"{path}: the staged file is gone or was cut; nothing is committed")
    return AddAction(
        path=file.path,
        size=file.size_bytes,
        partition_values={},
        modification_time=int(path.stat().st_mtime * 1000),
        data_change=True,
        stats=json.dumps({"numRecords": file.num_rows}),
    )


def _details(log: Path) -> dict[str, Any] | None:
    """What `Catalog.commit` stored in one version's log; None if another program wrote it."""
    try:
        lines = log.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    for line in lines:
        stored = json.loads(line).get("commitInfo", {}).get("heliostat")
        if stored is not None:
            found: dict[str, Any] = json.loads(stored)
            return found
    return None


def _delta_schema(schema: Any) -> Any:
    import polars as pl
    from deltalake import Schema

    if isinstance(schema, pl.Schema):
        schema = pl.DataFrame(schema=schema).to_arrow().schema
    return Schema.from_arrow(schema)


def _require_same_columns(name: str, table: DeltaTable, columns: Any) -> None:
    have = {item.name: _type(item) for item in table.schema().fields}
    come = {item.name: _type(item) for item in columns.fields}
    for column in [*come, *have]:
        require(
            have.get(column) == come.get(column),
            f"table {name}.{column}",
            come.get(column),
            f"must be {have.get(column)} to be appended",
        )


def _type(column: Any) -> str:
    return str(json.loads(column.type.to_json())).strip('"')


def _files(folder: Path, table: DeltaTable) -> list[Path]:
    # Only the names: deltalake gives the folder percent-encoded, which is no path.
    return sorted(folder / uri.rpartition("/")[2] for uri in table.file_uris())


def _schema(table: DeltaTable) -> dict[str, Any]:
    import polars as pl
    import pyarrow as pa

    frame = pl.from_arrow(pa.schema(table.schema().to_arrow()).empty_table())
    assert isinstance(frame, pl.DataFrame)
    return dict(frame.schema)
