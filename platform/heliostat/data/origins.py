"""What a source's rows come from, named for lineage: files by content, servers by who asked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from heliostat.data.rows import Source
from heliostat.data.tables import Catalog
from heliostat.lineage.events import Node


def nodes(source: Source, run_id: str) -> list[Node]:
    """Name what a source reads: files by path and content, a server's rows by who read them."""
    if source.paths:
        return [Node(kind="file", name=path, version=files_digest([path])) for path in source.paths]
    return [Node(kind="source", name=item.label, version=run_id) for item in source.plan()]


def tell(catalog: Catalog, table: str, source: Source, run_id: str, version: int) -> None:
    """Tell the catalog's lineage, if it has one, which files a version was ingested from."""
    if catalog.lineage is None:
        return
    catalog.lineage.emit(
        "COMPLETE", f"ingest {table}", run_id, inputs=nodes(source, run_id),
        outputs=[catalog.lineage.table(catalog.storage(table).url, version)],
    )  # fmt: skip


def files_digest(paths: Sequence[str]) -> str:
    """Name files by their content, wherever they lie: 16 hexadecimal digits; "" if one is gone."""
    digest = hashlib.sha256()
    for path in paths:
        if not Path(path).exists():
            return ""
        with Path(path).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
