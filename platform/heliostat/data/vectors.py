"""Nearest neighbours of a table's rows: an index of one version, built beside the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.config import require
from heliostat.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb.table import Table

    from heliostat.data.tables import Catalog

VECTOR = "vector"
"""Column of the index that holds each row's vector."""

MIN_ROWS_INDEXED = 1_000
"""Below this many rows every search looks at all of them, which is exact."""

Embed = Callable[["pa.Table"], Sequence[Sequence[float]]]
"""Makes a vector of each row of a block; runs in Ray tasks, so it must be importable."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """An index that can be searched."""

    table: str
    version: int
    """Version of the table that it holds."""
    rows: int
    width: int
    """Numbers in each vector."""


def build(
    catalog: Catalog, name: str, folder: Path, *, embed: Embed, version: int | None = None
) -> Built:
    """Embed a version's rows on Ray Data and index them; safe to repeat.

    The index replaces the one before it whole: a search sees either. Rows come block by block.

    Args:
        catalog: Where the table lives.
        name: Table.
        folder: Folder of the indexes.
        embed: Makes the vectors, all of one width.
        version: Which one; the newest if None.

    Raises:
        ConfigError: The table has no rows, or widths differ.
    """
    import lancedb

    chosen = catalog.version(name) if version is None else version
    blocks: Iterable[Any] = (
        catalog.dataset(name, chosen)
        .map_batches(partial(_with_vectors, embed=embed), batch_format="pyarrow")
        .iter_batches(batch_size=None, batch_format="pyarrow")
    )
    assert chosen is not None
    database = lancedb.connect(str(folder))
    made: Table | None = None
    width = 0
    for block in blocks:
        found = block.schema.field(VECTOR).type.list_size
        require(width in (0, found), "embed", found, f"must make vectors of one width, {width}")
        width = found
        if made is None:
            made = database.create_table(_index_name(name), block, mode="overwrite")
        else:
            made.add(block)
    if made is None:
        raise ConfigError("table", name, "must have rows to be searched")
    rows = made.count_rows()
    if rows >= MIN_ROWS_INDEXED:
        made.create_index(metric="cosine", vector_column_name=VECTOR)
        made.wait_for_index([f"{VECTOR}_idx"], timeout=timedelta(minutes=10))
    return Built(table=name, version=chosen, rows=rows, width=width)


def search(
    folder: Path, name: str, vector: Sequence[float], *, num_rows: int = 10
) -> list[dict[str, Any]]:
    """Rows whose vectors point most nearly the same way, nearest first, with ``distance``.

    Args:
        folder: Folder of the indexes.
        name: Table.
        vector: As wide as the index.
        num_rows: At most so many.

    Raises:
        ConfigError: There is no index, or the vector has another width.
    """
    import lancedb

    database = lancedb.connect(str(folder))
    try:
        table = database.open_table(_index_name(name))
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError("vector index", name, "must be built first") from error
    width = table.schema.field(VECTOR).type.list_size
    require(len(vector) == width, "vector", len(vector), f"must have {width} numbers")
    asked: Any = table.search(list(vector), vector_column_name=VECTOR)
    rows: list[dict[str, Any]] = asked.distance_type("cosine").limit(num_rows).to_list()
    return [
        {**{key: value for key, value in row.items() if key not in {VECTOR, "_distance"}},
         "distance": row["_distance"]}
        for row in rows
    ]  # fmt: skip


def _with_vectors(batch: pa.Table, embed: Embed) -> pa.Table:
    import pyarrow as pa

    vectors = [list(map(float, vector)) for vector in embed(batch)]
    width = len(vectors[0]) if vectors else 0
    column = pa.array(vectors, pa.list_(pa.float32(), width))
    return batch.append_column(VECTOR, column)


def _index_name(name: str) -> str:
    return name.replace("/", "--")
