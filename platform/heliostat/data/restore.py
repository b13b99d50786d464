"""Make an old version of a table its newest one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from heliostat.data import commits, reading
from heliostat.data.tables import Catalog
from heliostat.errors import ConfigError

if TYPE_CHECKING:
    from deltalake import DeltaTable


def restore(catalog: Catalog, name: str, version: int, *, run_id: str) -> int:
    """Commit a version with an old one's rows and columns, and return it; once per run.

    No file is written. History goes on: what is undone can be restored too.

    Raises:
        ConfigError: There is no such version, or vacuum has removed a file of it.
    """
    target = catalog._existing(name, version)
    files = reading.active(target)
    folder = catalog._folder(name)
    gone = [file.location for file in files if folder.stat(file.location) is None]
    if gone:
        raise ConfigError(
            f"table {name}.version", version, "must be a version that vacuum has kept",
            breaks=f"{len(gone)} of its {len(files)} files are gone",
        )  # fmt: skip
    columns = target.schema()

    def plan(table: DeltaTable | None) -> commits.Change:
        assert table is not None
        now = {file.path: file for file in reading.active(table)}
        wanted = {file.path: file for file in files}
        if reading.delta_types(table.schema()) != reading.delta_types(columns):
            if now.keys() & wanted.keys():
                raise ConfigError(
                    f"table {name}.version", version,
                    "must have the newest version's columns to be restored in place",
                    breaks="columns were added since, and files are shared with it",
                    next_step="Read the version and write it as a new one",
                )  # fmt: skip
            return commits.Change(
                add=tuple(file.staged for file in files), mode="overwrite", columns=columns
            )
        return commits.Change(
            add=tuple(file.staged for path, file in wanted.items() if path not in now),
            remove=tuple(file.staged for path, file in now.items() if path not in wanted),
            mode="replace",
            columns=columns,
        )

    return catalog.transact(
        name, plan, run_id=run_id, operation=f"restore of version {version}",
        details={"inputs": {name: version}},
    )  # fmt: skip
