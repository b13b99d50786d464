"""Windowed aggregates kept up to date as events come: the same numbers as `aggregates.history`."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import polars as pl

from heliostat.features.aggregates import Aggregates, finish, in_units, partials, totals_schema

if TYPE_CHECKING:
    from collections.abc import Sequence

Key = tuple[Any, ...]


class Rolling:
    """What is inside each entity's windows. Not safe in several threads.

    An entity's values are those of one moment: its newest event, or the moment when something
    left a window after it. They depend on the events alone, not on the order or the batches in
    which `add` was given them, as long as each is given once.
    """

    def __init__(self, what: Aggregates, key_types: Sequence[pl.DataType]) -> None:
        """Begin without events.

        Args:
            what: The definition.
            key_types: Polars types of its keys.
        """
        self._what = what
        self._schema = totals_schema(what, key_types)
        self._entities: dict[Key, _Entity] = {}
        self._leaving: list[tuple[int, int, Key]] = []
        self._count = 0
        self._until_us = -(2**62)

    def __len__(self) -> int:
        """Entities that have something inside a window."""
        return len(self._entities)

    def add(self, events: pl.DataFrame) -> set[Key]:
        """Take events in, in any order; return the entities whose values changed."""
        what = self._what
        changed: set[Key] = set()
        parts = partials(in_units(events, what), what)
        width = len(what.keys)
        newest: dict[Key, int] = {}
        rows = [(row[:width], *row[width : width + 3], row[width + 3 :]) for row in parts.rows()]
        for key, _, _, at, _ in rows:
            newest[key] = max(at, newest.get(key, at))
        for key, at in newest.items():
            entity = self._entities.get(key)
            if entity is None:
                # Something that was inside and left must not come back as an older moment.
                entity = self._entities[key] = _Entity(what, max(at, self._until_us))
            entity.move(max(at, entity.at_us), what)
            changed.add(key)
        for key, place, hop, _, numbers in rows:
            window = what.windows[place]
            leaves = hop + window.length_us
            if leaves > self._entities[key].at_us and self._entities[key].put(place, hop, numbers):
                self._count += 1
                heapq.heappush(self._leaving, (leaves, self._count, key))
        return changed

    def advance(self, to_us: int) -> set[Key]:
        """Let what has left a window by this moment go; return the entities that changed."""
        changed: set[Key] = set()
        self._until_us = max(self._until_us, to_us)
        while self._leaving and self._leaving[0][0] <= to_us:
            leaves, _, key = heapq.heappop(self._leaving)
            entity = self._entities.get(key)
            if entity is not None and entity.move(max(leaves, entity.at_us), self._what):
                changed.add(key)
        return changed

    def values(self, keys: Iterable[Key]) -> pl.DataFrame:
        """The entities' features, as of each one's moment; an unknown entity has no row."""
        return together([(self, keys)])

    def _rows(self, keys: Iterable[Key]) -> Iterator[tuple[Any, ...]]:
        for key in keys:
            entity = self._entities.get(key)
            if entity is not None:
                yield (*key, entity.at_us, *(n for total in entity.totals for n in total))

    def forget(self, keys: Iterable[Key]) -> None:
        """Drop those of the entities that have nothing inside a window, once that was told."""
        for key in keys:
            entity = self._entities.get(key)
            if entity is not None and not any(entity.hops):
                del self._entities[key]


def together(parts: Iterable[tuple[Rolling, Iterable[Key]]]) -> pl.DataFrame:
    """`Rolling.values` of several of one definition, in one frame; at least one."""
    given = list(parts)
    one = given[0][0]
    rows = [row for rolling, keys in given for row in rolling._rows(keys)]
    kinds: dict[str, Any] = {**one._schema, "event_timestamp": pl.Int64}
    found = pl.DataFrame(rows, schema=kinds, orient="row")
    return finish(found.cast({"event_timestamp": one._schema["event_timestamp"]}), one._what)


class _Entity:
    """Per window: the sums of each hop that is inside, and their total."""

    __slots__ = ("at_us", "hops", "totals")

    def __init__(self, what: Aggregates, at_us: int) -> None:
        self.at_us = at_us
        self.hops: list[dict[int, list[int]]] = [{} for _ in what.windows]
        self.totals = [[0] * len(what.totals) for _ in what.windows]

    def put(self, place: int, hop: int, numbers: Sequence[int]) -> bool:
        """Add to a hop; True if it is a new one."""
        held = self.hops[place].get(hop)
        is_new = held is None
        if held is None:
            held = self.hops[place][hop] = [0] * len(numbers)
        total = self.totals[place]
        for index, number in enumerate(numbers):
            held[index] += number
            total[index] += number
        return is_new

    def move(self, to_us: int, what: Aggregates) -> bool:
        """Let go what has left by then; True if something had."""
        self.at_us = to_us
        left = False
        for window, hops, total in zip(what.windows, self.hops, self.totals, strict=True):
            gone = [hop for hop in hops if hop + window.length_us <= to_us]
            for hop in gone:
                left = True
                for index, number in enumerate(hops.pop(hop)):
                    total[index] -= number
        return left
