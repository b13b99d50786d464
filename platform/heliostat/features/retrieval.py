"""Point-in-time joins over files: in this process while they are small, by Ray tasks beyond.

On Ray both sides are split by a hash of the entity's keys, so that no task holds more than its
share; each share is joined by Polars, cut by row number and put together again in the order of
the entity rows. Pieces travel through Ray's object store, which spills to disk what has no room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from heliostat.config import require
from heliostat.errors import nearest
from heliostat.features import sources
from heliostat.features.definitions import EVENT_TIMESTAMP
from heliostat.features.point_in_time import ROW, as_of
from heliostat.features.sources import Lookup, Unit

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_PART = 1_000_000
"""Rows of the largest side that one task joins, and rows of one block of the answer."""


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Entity rows and the views to look up for them."""

    lookups: tuple[Lookup, ...]

    event: str
    """Column of the entity rows that says as of when."""

    hide_until_created: bool = True
    """See `point_in_time.as_of`."""

    rows_per_part: int = field(default=ROWS_PER_PART)

    def __post_init__(self) -> None:
        require(
            self.rows_per_part > 0, "retrieval.rows_per_part", self.rows_per_part, "must be above 0"
        )

    def in_process(self, entities: pa.Table) -> pa.Table:
        """Join in this process.

        Returns:
            The entity rows, all and in their order, with every feature of every view.

        Raises:
            ConfigError: A column is missing or of a type that does not fit.
        """
        left = self.prepared(entities).sort(EVENT_TIMESTAMP)
        for group in self.groups:
            tables = {lookup.view: _table(lookup) for lookup in group.lookups}
            left = self._joined(left, group, tables)
        found = _by_number(left.select(ROW, *self.outputs), ROW)
        return _beside(entities, found.to_arrow())

    def on_ray(self, entities: pa.Table) -> list[Any]:
        """Join by Ray tasks.

        Returns:
            References to the blocks of the answer, in the order of the entity rows; each an
            Arrow table as `in_process` gives it.
        """
        import ray

        prepared = self.prepared(entities)
        total = max([prepared.height, *(item.dataset.count_rows() for item in self.lookups)])
        parts = max(1, -(-total // self.rows_per_part))
        starts = range(0, max(1, prepared.height), self.rows_per_part)
        blocks = [prepared[start : start + self.rows_per_part] for start in starts]
        split_rows = ray.remote(_split_rows).options(num_returns=parts)
        split_values = ray.remote(_split_values).options(num_returns=parts)
        join_part = ray.remote(_join_part).options(num_returns=len(blocks))
        found: list[list[Any]] = [[] for _ in blocks]
        retrieval = ray.put(self)
        for number, group in enumerate(self.groups):
            wanted = [ROW, EVENT_TIMESTAMP, *group.keys]
            rows = [
                _many(split_rows.remote(block.select(wanted).to_arrow(), group.keys, parts))
                for block in blocks
            ]
            values: dict[str, list[list[Any]]] = {
                lookup.view: [
                    _many(split_values.remote(retrieval, number, index, fragment, parts))
                    for fragment in _fragments(lookup)
                ]
                for index, lookup in enumerate(group.lookups)
            }
            for part in range(parts):
                pieces = [piece[part] for piece in rows]
                names = [view for view, split in values.items() for _ in split]
                pieces += [piece[part] for split in values.values() for piece in split]
                answer = join_part.remote(retrieval, number, len(rows), names, *pieces)
                for block, piece in zip(found, _many(answer), strict=True):
                    block.append(piece)
        assemble = ray.remote(_assemble)
        return [
            assemble.remote(
                ray.put(entities.slice(start, self.rows_per_part)), start, self.outputs, *pieces
            )
            for start, pieces in zip(starts, found, strict=True)
        ]

    @property
    def outputs(self) -> list[str]:
        """Every feature, by its name in the answer."""
        return [name for lookup in self.lookups for name in lookup.features]

    @cached_property
    def groups(self) -> list[_Group]:
        """The views by keys and their types; a group shares one split of the entity rows."""
        found: dict[tuple[tuple[str, ...], tuple[str, ...]], list[Lookup]] = {}
        for lookup in self.lookups:
            keys, kinds = tuple(sorted(lookup.keys)), lookup.kinds()
            types = [sources.key_kind(kinds[lookup.keys[name]], lookup.view) for name in keys]
            found.setdefault((keys, tuple(map(str, types))), []).append(lookup)
        return [
            _Group(entity_keys=keys, lookups=tuple(items)) for (keys, _), items in found.items()
        ]

    @cached_property
    def _unit(self) -> Unit:
        moments = [
            lookup.kinds()[name]
            for lookup in self.lookups
            for name in (lookup.event, lookup.created)
            if name is not None
        ]
        return sources.unit_of(moments)

    def prepared(self, entities: pa.Table) -> pl.DataFrame:
        """Row numbers, moments, and each group's keys in the types of its files."""
        for lookup in self.lookups:
            lookup.check()
        names = set(entities.column_names)
        for name in dict.fromkeys([self.event, *(k for item in self.lookups for k in item.keys)]):
            require(
                name in names, "entity rows", name, "must be a column",
                breaks=nearest(name, entities.column_names),
            )  # fmt: skip
        for name in self.outputs:
            require(
                name not in names, "entity rows", name,
                "must not be a column, because a feature has this name",
            )  # fmt: skip
        frame = pl.from_arrow(entities.select(sorted(names & self._needed)))
        assert isinstance(frame, pl.DataFrame)
        unit = self._unit
        at = sources.moment(
            frame[self.event], _finer(unit, frame.schema[self.event]), "entity rows"
        )
        columns = [at.alias(EVENT_TIMESTAMP)]
        require(
            at.null_count() == 0, f"entity rows.{self.event}", None, "must never be null",
            breaks=f"{at.null_count()} rows have none",
        )  # fmt: skip
        for group in self.groups:
            kinds = group.lookups[0].kinds()
            for name, alias in zip(group.entity_keys, group.keys, strict=True):
                source = group.lookups[0].keys[name]
                target = sources.key_kind(kinds[source], f"view {group.lookups[0].view}.{source}")
                columns.append(
                    sources.key_as(frame[name], target, f"entity rows.{name}").alias(alias)
                )
        return pl.DataFrame(columns).with_row_index(ROW)

    @property
    def _needed(self) -> set[str]:
        return {self.event, *(name for lookup in self.lookups for name in lookup.keys)}

    def _joined(
        self, left: pl.DataFrame, group: _Group, tables: Mapping[str, Sequence[pa.Table]]
    ) -> pl.DataFrame:
        """Add every feature of a group to rows that are ordered by time."""
        unit = left.schema[EVENT_TIMESTAMP].time_unit  # type: ignore[attr-defined]
        by = list(group.keys)
        if not by:
            left = left.with_columns(pl.lit(0, pl.Int64).alias(_ONE))
        for lookup in group.lookups:
            names = list(lookup.features)
            values = pl.concat(
                [
                    group.renamed(sources.joinable(table, lookup, unit, names))
                    for table in tables[lookup.view]
                ]
            )
            if not by:
                values = values.with_columns(pl.lit(0, pl.Int64).alias(_ONE))
            left = as_of(
                left, values, keys=by or [_ONE], names=names, ttl_us=lookup.ttl_us,
                hide_until_created=self.hide_until_created,
            )  # fmt: skip
        return left if by else left.drop(_ONE)


_ONE = "__one"
_PLACE = "__place"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Group:
    entity_keys: tuple[str, ...]
    lookups: tuple[Lookup, ...]

    @property
    def keys(self) -> list[str]:
        """Names that no column of anybody has; per view, since types may differ."""
        return [f"__key_{self.lookups[0].view}_{name}" for name in self.entity_keys]

    def renamed(self, values: pl.DataFrame) -> pl.DataFrame:
        return values.rename(dict(zip(self.entity_keys, self.keys, strict=True)))


def newest_of(lookup: Lookup, table: pa.Table) -> pa.Table:
    """Keep each entity's row with the latest event, of equal ones the one created last."""
    unit = sources.unit_of(list(lookup.kinds().values()))
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    where = f"view {lookup.view}.source"
    order = [
        sources.moment(frame[name], unit, f"{where}.{name}").alias(f"__{index}")
        for index, name in enumerate(item for item in (lookup.event, lookup.created) if item)
    ]
    names = [column.name for column in order]
    ordered = frame.with_columns(order).sort(names, maintain_order=True, nulls_last=False)
    if not lookup.keys:
        return ordered.tail(1).drop(names).to_arrow().cast(table.schema)
    keys = list(lookup.keys.values())
    newest = ordered.drop_nulls(keys).unique(keys, keep="last", maintain_order=True)
    return newest.drop(names).to_arrow().cast(table.schema)


def _finer(unit: Unit, kind: pl.DataType) -> Unit:
    return "ns" if unit == "ns" else sources.unit_of([kind])


def _table(lookup: Lookup) -> list[pa.Table]:
    return [lookup.dataset.to_table(columns=lookup.columns)]


def _fragments(lookup: Lookup) -> list[Any]:
    found: list[Any] = []
    for fragment in lookup.dataset.get_fragments():
        split = getattr(fragment, "split_by_row_group", None)
        found.extend(split() if split is not None else [fragment])
    return found


def _many(references: Any) -> list[Any]:
    """Ray gives one reference, not a list, for a task with one answer."""
    return references if isinstance(references, list) else [references]


def _one_or_many(pieces: list[Any]) -> Any:
    return pieces[0] if len(pieces) == 1 else pieces


def _by_number(frame: pl.DataFrame, name: str, *, first: int = 0) -> pl.DataFrame:
    """Order rows by a column that holds each number from `first` on once, and drop it.

    Each number says where its row belongs, so that nothing need be compared.
    """
    places = np.empty(frame.height, np.uint32)
    places[frame[name].to_numpy() - first] = np.arange(frame.height, dtype=np.uint32)
    return frame.select(pl.exclude(name).gather(pl.Series(places)))


def _share_of(keys: pl.DataFrame, parts: int) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """Number of the share of each row, by a hash of its keys; the first where there is no key."""
    if parts == 1 or not keys.width:
        return np.zeros(keys.height, np.uint16)
    one = pl.col(keys.columns[0]) if keys.width == 1 else pl.struct(pl.all())
    return keys.select((one.hash(seed=0) % parts).cast(pl.UInt16)).to_series().to_numpy()


def _split(
    frame: pl.DataFrame, share: np.ndarray[Any, np.dtype[np.uint16]], parts: int
) -> list[Any]:
    """Cut rows into their shares, each in the order of `frame`."""
    if parts == 1:
        return [frame.to_arrow()]
    # NumPy sorts 16 bits by counting them.
    order = pl.Series(np.argsort(share, kind="stable").astype(np.uint32))
    ends = np.cumsum(np.bincount(share, minlength=parts)).tolist()
    ordered = frame.select(pl.all().gather(order))
    return [ordered[start:end].to_arrow() for start, end in pairwise([0, *ends])]


def _split_rows(table: Any, keys: Sequence[str], parts: int) -> Any:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return _one_or_many(_split(frame, _share_of(frame.select(keys), parts), parts))


def _split_values(retrieval: Retrieval, number: int, index: int, fragment: Any, parts: int) -> Any:
    import pyarrow as pa

    group = retrieval.groups[number]
    lookup = group.lookups[index]
    columns = lookup.columns
    shares: list[list[Any]] = [[] for _ in range(parts)]
    empty = lookup.dataset.schema.empty_table().select(columns)
    keys = [lookup.keys[name] for name in group.entity_keys]  # as the entity rows are hashed
    for table in sources.batches(fragment, lookup):
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        hashed = pl.DataFrame(
            [sources.key(frame[name], name).alias(f"__{place}") for place, name in enumerate(keys)]
        )
        share = _share_of(hashed, parts) if keys else np.zeros(frame.height, np.uint16)
        for taken, piece in zip(shares, _split(frame, share, parts), strict=True):
            if piece.num_rows:
                taken.append(piece.select(columns).cast(empty.schema))
    return _one_or_many([pa.concat_tables([empty, *taken]) for taken in shares])


def _join_part(
    retrieval: Retrieval, number: int, num_blocks: int, views: Sequence[str], *pieces: Any
) -> Any:
    """Join one share: first its rows of each block in turn, then what the views have for them."""
    import pyarrow as pa

    group = retrieval.groups[number]
    left = pl.from_arrow(pa.concat_tables(pieces[:num_blocks]))
    assert isinstance(left, pl.DataFrame)
    tables: dict[str, list[Any]] = {lookup.view: [] for lookup in group.lookups}
    for view, piece in zip(views, pieces[num_blocks:], strict=True):
        tables[view].append(piece)
    merged = {
        lookup.view: tables[lookup.view]
        or [lookup.dataset.schema.empty_table().select(lookup.columns)]
        for lookup in group.lookups
    }
    merged = {view: [pa.concat_tables(items)] for view, items in merged.items()}
    names = [name for lookup in group.lookups for name in lookup.features]
    in_time = left.with_row_index(_PLACE).sort(EVENT_TIMESTAMP)
    found = retrieval._joined(in_time, group, merged).select(_PLACE, ROW, *names)
    ordered = _by_number(found, _PLACE)
    ends = accumulate((piece.num_rows for piece in pieces[:num_blocks]), initial=0)
    return _one_or_many([ordered[start:end].to_arrow() for start, end in pairwise(ends)])


def _assemble(entities: Any, start: int, outputs: Sequence[str], *pieces: Any) -> Any:
    frames: dict[tuple[str, ...], list[pl.DataFrame]] = {}
    for piece in pieces:
        frame = pl.from_arrow(piece)
        assert isinstance(frame, pl.DataFrame)
        frames.setdefault(tuple(frame.columns), []).append(frame)
    found = pl.concat(
        [_by_number(pl.concat(items), ROW, first=start) for items in frames.values()],
        how="horizontal",
    )
    return _beside(entities, found.select(outputs).to_arrow())


def _beside(entities: pa.Table, found: pa.Table) -> pa.Table:
    for column, values in zip(found.schema, found.columns, strict=True):
        entities = entities.append_column(column, values)
    return entities
