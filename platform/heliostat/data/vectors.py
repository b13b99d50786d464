"""Nearest neighbours of a table's rows: an index of one version, built beside the table."""

from __future__ import annotations

import contextlib
import json
import math
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heliostat.config import require, require_name
from heliostat.data.storage import LocalFolder
from heliostat.errors import ConfigError, nearest

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
    chosen = catalog.version(name) if version is None else version
    blocks = (
        catalog.dataset(name, chosen)
        .map_batches(partial(with_vectors, embed=embed), batch_format="pyarrow")
        .iter_batches(batch_size=None, batch_format="pyarrow")
    )
    assert chosen is not None
    return index(blocks, name, folder, version=chosen)


def index(blocks: Iterable[pa.Table], name: str, folder: Path, *, version: int) -> Built:
    """Index blocks of rows that have their vectors, in place of the index before."""
    import lancedb

    database = lancedb.connect(str(folder))
    # Built under a name of its own; the pointer to it is replaced when all of it is there.
    place = f"{_index_name(name)}--{uuid.uuid4().hex[:12]}"
    made: Table | None = None
    width = 0
    for block in blocks:
        found = block.schema.field(VECTOR).type.list_size
        require(width in (0, found), "embed", found, f"must make vectors of one width, {width}")
        width = found
        if made is None:
            made = database.create_table(place, block, mode="overwrite")
        else:
            made.add(block)
    if made is None:
        raise ConfigError("table", name, "must have rows to be searched")
    rows = made.count_rows()
    if rows >= MIN_ROWS_INDEXED:
        made.create_index(metric="cosine", vector_column_name=VECTOR)
        made.wait_for_index([f"{VECTOR}_idx"], timeout=timedelta(minutes=10))
    built = Built(table=name, version=version, rows=rows, width=width)
    before = _pointer(folder, name)
    text = json.dumps({"place": place, **asdict(built)})
    LocalFolder(folder).write(f"{_index_name(name)}.json", text.encode())
    if before is not None:
        with contextlib.suppress(ValueError, FileNotFoundError):  # another build was faster
            database.drop_table(before["place"])
    return built


def current(folder: Path, name: str) -> Built:
    """Say what the index of a table holds.

    Raises:
        ConfigError: There is none.
    """
    found = _existing(folder, name)
    return Built(**{key: value for key, value in found.items() if key != "place"})


def vector_of(folder: Path, name: str, where: Mapping[str, str | int | float]) -> list[float]:
    """Give the vector of the one row with these values.

    Raises:
        ConfigError: There is no index, no such column, or not exactly one such row.
    """
    table = _table(folder, name)
    for column in where:
        require(
            column in table.schema.names and column != VECTOR, "like", column,
            f"must be a column of {name}", breaks=nearest(column, table.schema.names),
        )  # fmt: skip
    asked = " AND ".join(f"{column} = {_literal(value)}" for column, value in where.items())
    rows: list[dict[str, Any]] = table.search().where(asked).limit(2).to_list()
    require(len(rows) == 1, "like", asked, "must name one row", breaks=f"{len(rows)} found")
    return [float(value) for value in rows[0][VECTOR]]


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
        ConfigError: There is no index, or the vector has another width or no direction.
    """
    table = _table(folder, name)
    width = table.schema.field(VECTOR).type.list_size
    require(len(vector) == width, "vector", len(vector), f"must have {width} numbers")
    require(
        all(map(math.isfinite, vector)) and any(vector), "vector", "its numbers",
        "must be finite, and not all 0",
    )  # fmt: skip
    asked: Any = table.search(list(vector), vector_column_name=VECTOR)
    rows: list[dict[str, Any]] = asked.distance_type("cosine").limit(num_rows).to_list()
    return [
        {**{key: value for key, value in row.items() if key not in {VECTOR, "_distance"}},
         "distance": row["_distance"]}
        for row in rows
    ]  # fmt: skip


def _table(folder: Path, name: str) -> Table:
    import lancedb

    place = _existing(folder, name)["place"]
    try:
        return lancedb.connect(str(folder)).open_table(place)
    except (FileNotFoundError, ValueError):
        # A build has replaced it between the two looks.
        return lancedb.connect(str(folder)).open_table(_existing(folder, name)["place"])


def _existing(folder: Path, name: str) -> dict[str, Any]:
    found = _pointer(folder, name)
    if found is None:
        raise ConfigError("vector index", name, "must be built first")
    return found


def _pointer(folder: Path, name: str) -> dict[str, Any] | None:
    for part in name.split("/"):
        require_name("table name", part)
    content = LocalFolder(folder).read(f"{_index_name(name)}.json")
    found: dict[str, Any] | None = None if content is None else json.loads(content)
    return found


def _literal(value: str | float) -> str:
    return repr(value) if not isinstance(value, str) else "'" + value.replace("'", "''") + "'"


def with_vectors(batch: pa.Table, embed: Embed) -> pa.Table:
    """Add each row's vector to a block."""
    import pyarrow as pa

    vectors = [list(map(float, vector)) for vector in embed(batch)]
    width = len(vectors[0]) if vectors else 0
    column = pa.array(vectors, pa.list_(pa.float32(), width))
    return batch.append_column(VECTOR, column)


def _index_name(name: str) -> str:
    return name.replace("/", "--")
