"""One attempt to commit a change to a Delta table, on exactly the version it was made for."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from heliostat.config import require
from heliostat.data import storage as places
from heliostat.data.reading import delta_types, open_table
from heliostat.data.schema_rules import require_appendable
from heliostat.data.staging import StagedFile, add_action, remove_action
from heliostat.data.storage import Storage
from heliostat.errors import HeliostatError

if TYPE_CHECKING:
    from deltalake import DeltaTable

SERIAL = "heliostat/serial"
"""An application id that every commit of ours bumps. Delta lets only one commit of an id win, so
each one stands on what its writer read; without it deltalake rebases an overwrite over an append
that it has not seen, and keeps the rows of both."""

CONFIGURATION = {
    # Old versions stay readable until our vacuum says otherwise: models cite them.
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.enableExpiredLogCleanup": "false",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What a commit does to a table."""

    add: tuple[StagedFile, ...]

    mode: Literal["overwrite", "append", "replace"]
    """``overwrite`` takes out all files and sets the columns; ``replace`` takes out `remove`."""

    columns: Any
    """Delta schema of the rows that come."""

    remove: tuple[StagedFile, ...] = ()

    partition_by: tuple[str, ...] = ()

    changes_data: bool = True
    """False where the same rows only lie in other files."""

    details: Mapping[str, Any] = field(default_factory=dict)
    """Stored with the commit, besides what its writer gives."""

    numbers: Mapping[str, int] = field(default_factory=dict)
    """Delta application ids and the numbers they get, in the same commit; see `positions`."""


def attempt(
    name: str,
    folder: Storage,
    table: DeltaTable | None,
    change: Change,
    *,
    run_id: str,
    details: dict[str, Any],
) -> bool:
    """Commit once; False where another writer was faster and the change must be made anew.

    Args:
        name: Table, for errors.
        folder: Where it lies.
        table: Open at the version that the change was made for; None to make the table.
        change: What to do.
        run_id: Who does it.
        details: Stored with the commit.

    Raises:
        ConfigError: The columns or partition columns do not fit.
        HeliostatError: A staged file is gone.
    """
    from deltalake.exceptions import CommitFailedError, DeltaError

    details = {**details, **change.details}
    adds = [add_action(folder, file, changes_data=change.changes_data) for file in change.add]
    removes = [remove_action(file, changes_data=change.changes_data) for file in change.remove]
    if table is None:
        try:
            made = _properties(run_id, 0, details, change.numbers, is_first=True)
            _create(folder, change, adds, made)
        except (DeltaError, FileExistsError, OSError) as error:
            if open_table(folder) is None:
                raise _failed(folder, error) from error
            return False
        return True
    if change.mode != "overwrite":
        table = _widened(name, table, change)
        if table is None:
            return False
    _require_partitions(name, table, change)
    try:
        table.create_write_transaction(
            [*adds, *removes],
            "overwrite" if change.mode == "overwrite" else "append",
            change.columns,
            partition_by=list(table.metadata().partition_columns),
            commit_properties=_properties(run_id, table.version() + 1, details, change.numbers),
            post_commithook_properties=_hooks(),
        )
    except CommitFailedError:
        # Writers that meet again and again would keep step without it.
        time.sleep(random.uniform(0.0, 0.05))  # noqa: S311 - no secret
        return False
    except (DeltaError, OSError) as error:
        raise _failed(folder, error) from error
    return True


def _create(folder: Storage, change: Change, adds: list[Any], properties: Any) -> None:
    from deltalake.transaction import create_table_with_add_actions

    create_table_with_add_actions(
        folder.url,
        change.columns,
        adds,
        mode="error",
        partition_by=list(change.partition_by),
        configuration=CONFIGURATION,
        storage_options=folder.options,
        commit_properties=properties,
        post_commithook_properties=_hooks(),
    )


def _widened(name: str, table: DeltaTable, change: Change) -> DeltaTable | None:
    """Give the table the columns that it lacks, in a commit of their own that adds no row."""
    from deltalake.exceptions import CommitFailedError

    new = require_appendable(name, delta_types(table.schema()), delta_types(change.columns))
    if not new:
        return table
    try:
        table.alter.add_columns([item for item in change.columns.fields if item.name in new])
    except CommitFailedError:
        return None
    # From a fresh handle, so that the change is made for the version that has the columns.
    return None


def _require_partitions(name: str, table: DeltaTable, change: Change) -> None:
    have = tuple(table.metadata().partition_columns)
    for file in change.add:
        come = tuple(column for column, _ in file.partition)
        require(come == have, f"table {name}.partition_by", come, f"must be the table's, {have}")


def _properties(
    run_id: str,
    version: int,
    details: dict[str, Any],
    numbers: Mapping[str, int],
    *,
    is_first: bool = False,
) -> Any:
    from deltalake import CommitProperties, Transaction

    # The run's transaction holds the version that it makes, so that it is found without a search.
    return CommitProperties(
        custom_metadata={"heliostat": json.dumps({"run": run_id, **details})},
        # Else deltalake puts a creation that lost the race on top of the one that won, unseen.
        max_commit_retries=0 if is_first else None,
        app_transactions=[
            Transaction(run_id, version),
            Transaction(SERIAL, version),
            *(Transaction(name, number) for name, number in numbers.items()),
        ],
    )


def _hooks() -> Any:
    from deltalake import PostCommitHookProperties

    return PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)


def _failed(folder: Storage, error: Exception) -> Exception:
    if places.is_url(folder.url):
        return places.unavailable(folder.url, error)
    return HeliostatError(f"{folder.url}: cannot be committed; {error}")
