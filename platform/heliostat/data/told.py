"""What a catalog tells its lineage: versions with what they are made from, what is read or copied."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from heliostat.data.sinks import Sink
    from heliostat.data.tables import Catalog, Commit

GROWS = ("append", "merge", "optimize")
"""Operations whose version holds rows of the one before."""


def commit(catalog: Catalog, operation: str, name: str, made: Commit) -> None:
    """Tell of a version; told again, it is the same run."""
    if catalog.lineage is None:
        return
    inputs = dict(made.details.get("inputs", {}))
    if operation in GROWS and made.version > 0:
        inputs[name] = made.version - 1
    catalog.lineage.emit(
        "COMPLETE", f"{operation} {name}", made.run_id,
        inputs=[
            catalog.lineage.table(catalog.storage(table).url, number)
            for table, number in inputs.items()
        ],
        outputs=[catalog.lineage.table(catalog.storage(name).url, made.version)],
    )  # fmt: skip


def read(catalog: Catalog, name: str, version: int) -> None:
    """Tell that a version was opened as a dataset."""
    if catalog.lineage is not None:
        node = catalog.lineage.table(catalog.storage(name).url, version)
        catalog.lineage.emit("COMPLETE", f"read {name}", uuid.uuid4().hex, inputs=[node])


def copied(catalog: Catalog, name: str, version: int, sink: Sink) -> None:
    """Tell that a version was written to a sink."""
    if catalog.lineage is not None:
        run_id = uuid.uuid4().hex
        node = catalog.lineage.table(catalog.storage(name).url, version)
        catalog.lineage.emit(
            "COMPLETE", f"copy {name}", run_id, inputs=[node], outputs=[sink.node(run_id)]
        )
