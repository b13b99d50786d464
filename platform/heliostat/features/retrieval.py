"""Point-in-time joins over files: in this process while they are small, by Ray tasks beyond.

On Ray both sides are split by a hash of the entity's keys into parts, one for a task, and each part
into shares that Polars joins one after the other; what comes of them is put together again in the
order of the entity rows. Pieces travel through Ray's object store, which spills to disk what has no
room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import polars as pl

from heliostat.config import require
from heliostat.errors import nearest
from heliostat.features import sources
from heliostat.features.definitions import EVENT_TIMESTAMP
from heliostat.features.point_in_time import ROW, as_of
from heliostat.features.shares import Cut, Piece, by_number, split
from heliostat.features.sources import Lookup, Unit

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_PART = 1_000_000
"""Rows of the largest side that one task joins, and rows of one block of the answer."""

ROWS_PER_SHARE = 250_000
"""Rows that a task joins at once: so few stay in the processor's caches, and their memory is used
again instead of being asked for anew."""


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Entity rows and the views to look up for them."""

    lookups: tuple[Lookup, ...]

    event: str
    """Column of the entity rows that says as of when."""

    hide_until_created: bool = True
    """See `point_in_time.as_of`."""

    rows_per_part: int = ROWS_PER_PART
    rows_per_share: int = ROWS_PER_SHARE

    def __post_init__(self) -> None:
        for name in ("rows_per_part", "rows_per_share"):
            value = getattr(self, name)
            require(value > 0, f"retrieval.{name}", value, "must be above 0")

    def in_process(self, entities: pa.Table) -> pa.Table:
        """Join in this process.

        Returns:
            The entity rows, all and in their order, with every feature of every view.

        Raises:
            ConfigError: A column is missing or of a type that does not fit.
        """
        left = self.prepared(entities).sort(EVENT_TIMESTAMP)
        for group in self.groups:
            tables = {
                lookup.view: lookup.dataset.to_table(columns=lookup.columns)
                for lookup in group.lookups
            }
            left = self._joined(left, group, tables)
        found = by_number(left.select(ROW, *self.outputs), ROW)
        return _beside(entities, found.to_arrow())

    def on_ray(self, entities: pa.Table) -> list[Any]:
        """Join by Ray tasks.

        Returns:
            References to the blocks of the answer, in the order of the entity rows; each an
            Arrow table as `in_process` gives it.
        """
        import ray

        assemble = ray.remote(_assemble)
        return [
            assemble.remote(
                ray.put(entities.slice(start, self.rows_per_part)), start, self.outputs, *pieces
            )
            for start, pieces in self._joined_pieces(entities)
        ]

    def gathered(self, entities: pa.Table) -> pa.Table:
        """Join by Ray tasks, and put the answer together here, in memory of this process.

        Returns:
            As `in_process` gives it.
        """
        import pyarrow as pa
        import ray

        found = self._joined_pieces(entities)
        tables = []
        # Ray's store lets go of a block's pieces when the block is made of them.
        while found:
            start, pieces = found.pop(0)
            rows = entities.slice(start, self.rows_per_part)
            tables.append(_assemble(rows, start, self.outputs, *ray.get(pieces)))
        return pa.concat_tables(tables)

    def _joined_pieces(self, entities: pa.Table) -> list[tuple[int, list[Any]]]:
        """Start the tasks; for each block its first row and what is joined to its rows, in pieces."""
        import ray

        prepared = self.prepared(entities)
        total = max([prepared.height, *(item.dataset.count_rows() for item in self.lookups)])
        cut = Cut(
            parts=max(1, -(-total // self.rows_per_part)),
            shares=max(1, -(-min(total, self.rows_per_part) // self.rows_per_share)),
        )
        starts = range(0, max(1, prepared.height), self.rows_per_part)
        blocks = [prepared[start : start + self.rows_per_part] for start in starts]
        split_rows = ray.remote(_split_rows).options(num_returns=cut.parts)
        split_values = ray.remote(_split_values).options(num_returns=cut.parts)
        join_part = ray.remote(_join_part).options(num_returns=len(blocks))
        found: list[list[Any]] = [[] for _ in blocks]
        retrieval = ray.put(self)
        for number, group in enumerate(self.groups):
            wanted = [ROW, EVENT_TIMESTAMP, *group.keys]
            rows = [
                _many(split_rows.remote(block.select(wanted).to_arrow(), group.keys, cut))
                for block in blocks
            ]
            values: dict[str, list[list[Any]]] = {
                lookup.view: [
                    _many(split_values.remote(retrieval, number, index, fragment, cut))
                    for fragment in _fragments(lookup)
                ]
                for index, lookup in enumerate(group.lookups)
            }
            for part in range(cut.parts):
                pieces = [piece[part] for piece in rows]
                names = [view for view, fragments in values.items() for _ in fragments]
                pieces += [piece[part] for fragments in values.values() for piece in fragments]
                answer = join_part.remote(retrieval, number, cut, len(rows), names, *pieces)
                for block, piece in zip(found, _many(answer), strict=True):
                    block.append(piece)
        return list(zip(starts, found, strict=True))

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
        self, left: pl.DataFrame, group: _Group, tables: Mapping[str, pa.Table]
    ) -> pl.DataFrame:
        """Add every feature of a group to rows that are ordered by time."""
        unit = left.schema[EVENT_TIMESTAMP].time_unit  # type: ignore[attr-defined]
        by = list(group.keys)
        if not by:
            left = left.with_columns(pl.lit(0, pl.Int64).alias(_ONE))
        for lookup in group.lookups:
            names = list(lookup.features)
            values = group.renamed(sources.joinable(tables[lookup.view], lookup, unit, names))
            if not by:
                values = values.with_columns(pl.lit(0, pl.Int64).alias(_ONE))
            left = as_of(
                left, values, keys=by or [_ONE], names=names, ttl_us=lookup.ttl_us,
                hide_until_created=self.hide_until_created,
            )  # fmt: skip
        return left if by else left.drop(_ONE)

    def _joined_rows(
        self, rows: pa.Table, group: _Group, tables: Mapping[str, pa.Table]
    ) -> pl.DataFrame:
        """Row numbers and a group's features for rows of any order, in that order."""
        left = pl.from_arrow(rows)
        assert isinstance(left, pl.DataFrame)
        names = [name for lookup in group.lookups for name in lookup.features]
        in_time = left.with_row_index(_PLACE).sort(EVENT_TIMESTAMP)
        found = self._joined(in_time, group, tables)
        return by_number(found.select(_PLACE, ROW, *names), _PLACE)


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


def _fragments(lookup: Lookup) -> list[Any]:
    found: list[Any] = []
    for fragment in lookup.dataset.get_fragments():
        by_group = getattr(fragment, "split_by_row_group", None)
        found.extend(by_group() if by_group is not None else [fragment])
    return found


def _many(references: Any) -> list[Any]:
    """Ray gives one reference, not a list, for a task with one answer."""
    return references if isinstance(references, list) else [references]


def _one_or_many(pieces: list[Any]) -> Any:
    return pieces[0] if len(pieces) == 1 else pieces


def _split_rows(table: Any, keys: Sequence[str], cut: Cut) -> Any:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return _one_or_many(split(frame, frame.select(keys), cut))


def _split_values(retrieval: Retrieval, number: int, index: int, fragment: Any, cut: Cut) -> Any:
    """Cut a fragment of a view's files; for each part the pieces, one for each batch of rows."""
    group = retrieval.groups[number]
    lookup = group.lookups[index]
    kind = lookup.empty.schema
    parts: list[list[Piece]] = [[] for _ in range(cut.parts)]
    keys = [lookup.keys[name] for name in group.entity_keys]  # as the entity rows are hashed
    for table in sources.batches(fragment, lookup):
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        hashed = pl.DataFrame(
            [sources.key(frame[name], name).alias(f"__{place}") for place, name in enumerate(keys)]
        )
        for taken, piece in zip(parts, split(frame, hashed, cut), strict=True):
            if piece.rows.num_rows:
                rows = piece.rows.select(lookup.columns).cast(kind)
                taken.append(Piece(rows=rows, ends=piece.ends))
    return _one_or_many(parts)


def _join_part(
    retrieval: Retrieval, number: int, cut: Cut, num_blocks: int, views: Sequence[str], *pieces: Any
) -> Any:
    """Join one part: first its rows of each block in turn, then what the views have for them."""
    import pyarrow as pa

    group = retrieval.groups[number]
    answers: list[list[pl.DataFrame]] = [[] for _ in range(num_blocks)]
    for share in range(cut.shares):
        rows = [piece.share(share) for piece in pieces[:num_blocks]]
        # Of a view there may be no rows here, and then no table that says its columns.
        values: dict[str, list[Any]] = {lookup.view: [lookup.empty] for lookup in group.lookups}
        for view, batches in zip(views, pieces[num_blocks:], strict=True):
            values[view] += [piece.share(share) for piece in batches]
        tables = {view: pa.concat_tables(items) for view, items in values.items()}
        found = retrieval._joined_rows(pa.concat_tables(rows), group, tables)
        ends = accumulate((table.num_rows for table in rows), initial=0)
        for answer, (start, end) in zip(answers, pairwise(ends), strict=True):
            answer.append(found[start:end])
    return _one_or_many([pl.concat(answer, rechunk=True).to_arrow() for answer in answers])


def _assemble(entities: Any, start: int, outputs: Sequence[str], *pieces: Any) -> Any:
    """Put what was joined to the rows of a block beside them."""
    import pyarrow as pa

    groups: dict[tuple[str, ...], list[Any]] = {}
    for piece in pieces:
        groups.setdefault(tuple(piece.column_names), []).append(piece)
    frames = []
    for items in groups.values():
        frame = pl.from_arrow(pa.concat_tables(items))
        assert isinstance(frame, pl.DataFrame)
        frames.append(by_number(frame, ROW, first=start))
    found = pl.concat(frames, how="horizontal")
    return _beside(entities, found.select(outputs).to_arrow())


def _beside(entities: pa.Table, found: pa.Table) -> pa.Table:
    for column, values in zip(found.schema, found.columns, strict=True):
        entities = entities.append_column(column, values)
    return entities
