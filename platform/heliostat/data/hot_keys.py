"""Joins and aggregations on Ray Data in which no key, however frequent, makes one task slow.

A shuffle sends all rows of a key to one task. Here an aggregation shuffles what each block has made
of a key, one row, and a join gives the rows of frequent keys to every task instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from heliostat.config import require

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    import ray.data

How = Literal["sum", "count", "min", "max"]
HOWS = ("sum", "count", "min", "max")
_BUCKET = "__bucket"


@dataclass(frozen=True, kw_only=True, slots=True)
class Aggregate:
    """One number of each group; ``count`` counts values that are there."""

    column: str
    how: How
    name: str

    def __post_init__(self) -> None:
        require(self.how in HOWS, f"aggregate {self.name}.how", self.how, f"must be one of {HOWS}")


def aggregate(
    rows: ray.data.Dataset,
    keys: Sequence[str],
    aggregates: Sequence[Aggregate],
    *,
    num_partitions: int = 16,
) -> ray.data.Dataset:
    """One row for each group, in no order; a null is a key like another.

    Args:
        rows: With all columns that are named.
        keys: Columns that make a group.
        aggregates: What is wanted of each.
        num_partitions: Into how many parts the groups are shuffled.
    """
    require(bool(keys), "aggregate.keys", keys, "must name a column")
    require(bool(aggregates), "aggregate.aggregates", aggregates, "must name one")
    parts = rows.map_batches(
        partial(per_block, keys=tuple(keys), aggregates=tuple(aggregates), buckets=num_partitions),
        batch_size=None, batch_format="pyarrow",
    )  # fmt: skip
    # Ray's own default is 200 parts, each a task of its own, however few rows there are.
    grouped = parts.groupby(_BUCKET, num_partitions=num_partitions)
    done: ray.data.Dataset = grouped.map_groups(
        partial(put_together, keys=tuple(keys), aggregates=tuple(aggregates)),
        batch_format="pyarrow",
    )
    return done


def hot_keys(counts: Mapping[tuple[Any, ...], int], num_partitions: int) -> list[tuple[Any, ...]]:
    """Keys that have more rows than a quarter of what one partition has on average.

    >>> hot_keys({("a",): 90, ("b",): 6, ("c",): 4}, num_partitions=2)
    [('a',)]
    """
    limit = sum(counts.values()) / num_partitions / 4
    return sorted(key for key, count in counts.items() if count > max(limit, 1))


def join(
    left: ray.data.Dataset,
    right: ray.data.Dataset,
    keys: Sequence[str],
    *,
    num_partitions: int = 16,
) -> ray.data.Dataset:
    """Left join: every row of `left`, with the columns of each row of `right` that has its keys.

    Keys frequent in `left` are found first. Their rows of `right` must fit in memory; those of
    the others need not. A null equals nothing.

    Args:
        left: The large side.
        right: Its other columns must have names of their own.
        keys: Columns of both.
        num_partitions: Into how many parts the rows of other keys are shuffled.
    """
    import polars as pl
    import ray

    counted = aggregate(
        left, keys, [Aggregate(column=keys[0], how="count", name="__rows")],
        num_partitions=num_partitions,
    )  # fmt: skip
    counts = {
        tuple(row[key] for key in keys): int(row["__rows"])
        for row in counted.iter_rows()
        if all(row[key] is not None for key in keys)
    }
    hot = hot_keys(counts, num_partitions)
    columns = [name for name in right.schema().names if name not in keys]
    cold_left = left.map_batches(
        partial(_select, keys=tuple(keys), hot=hot, is_hot=False), batch_format="pyarrow"
    )
    cold_right = right.map_batches(
        partial(_select, keys=tuple(keys), hot=hot, is_hot=False), batch_format="pyarrow"
    )
    joined: ray.data.Dataset = cold_left.join(
        cold_right,
        join_type="left_outer",
        num_partitions=num_partitions,
        on=tuple(keys),  # type: ignore[arg-type]
    )
    if not hot:
        return joined
    frequent = right.map_batches(
        partial(_select, keys=tuple(keys), hot=hot, is_hot=True), batch_format="pyarrow"
    )
    few = pl.concat([_frame(block) for block in ray.get(frequent.to_arrow_refs())])
    given = ray.put(few)
    answered = left.map_batches(
        partial(_select, keys=tuple(keys), hot=hot, is_hot=True), batch_format="pyarrow"
    ).map_batches(
        partial(_with_few, keys=tuple(keys), few=given, columns=tuple(columns)),
        batch_format="pyarrow",
    )
    return joined.union(answered)


def per_block(
    block: pa.Table, keys: Sequence[str], aggregates: Sequence[Aggregate], buckets: int
) -> pa.Table:
    """What one block has of each group, one row each, and the part that it is shuffled to."""
    import polars as pl

    rows = _frame(block)
    found = rows.group_by(keys).agg(getattr(pl.col(a.column), a.how)().alias(a.name)
                                    for a in aggregates)  # fmt: skip
    bucket = (pl.struct(keys).hash(seed=0x5EED) % buckets).cast(pl.Int64)
    return found.with_columns(bucket.alias(_BUCKET)).to_arrow()


def put_together(block: pa.Table, keys: Sequence[str], aggregates: Sequence[Aggregate]) -> pa.Table:
    """Make one row of the rows that `per_block` made of a group; counts add up."""
    import polars as pl

    how = {"sum": "sum", "count": "sum", "min": "min", "max": "max"}
    return (
        _frame(block)
        .group_by(keys)
        .agg(getattr(pl.col(a.name), how[a.how])() for a in aggregates)
        .to_arrow()
    )


def _select(
    block: pa.Table, keys: tuple[str, ...], hot: Sequence[tuple[Any, ...]], *, is_hot: bool
) -> pa.Table:
    """Rows of frequent keys, or of the others."""
    import polars as pl

    rows = _frame(block)
    schema = {key: rows.schema[key] for key in keys}
    frequent = pl.DataFrame(list(hot), schema=schema, orient="row")
    kind: Literal["semi", "anti"] = "semi" if is_hot else "anti"
    return rows.join(frequent, on=list(keys), how=kind, maintain_order="left").to_arrow()


def _with_few(
    block: pa.Table, keys: tuple[str, ...], few: Any, columns: tuple[str, ...]
) -> pa.Table:
    import ray

    rows = _frame(block)
    known: pl.DataFrame = ray.get(few)
    joined = rows.join(known, on=list(keys), how="left", maintain_order="left")
    return joined.select(*rows.columns, *columns).to_arrow()


def _frame(block: pa.Table) -> pl.DataFrame:
    import polars as pl

    frame = pl.from_arrow(block)
    assert isinstance(frame, pl.DataFrame)
    return frame
