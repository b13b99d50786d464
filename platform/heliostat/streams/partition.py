"""One partition in a consumer's memory: all of it can be made again from the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import polars as pl

from heliostat.data import positions
from heliostat.data.tables import Catalog
from heliostat.features.rolling import Key, Rolling
from heliostat.streams.judging import OLDEST_US, Judged
from heliostat.streams.recipe import OFFSET, PARTITION, StreamRecipe

if TYPE_CHECKING:
    from heliostat.streams.messages import Messages


@dataclass(kw_only=True, slots=True)
class Held:
    """What a consumer knows of a partition that it reads."""

    partition: str

    committed: int | None
    """Offset that follows the last one in the table; None where none was committed."""

    next: int | None
    """Offset that follows the last one that was judged."""

    read: int
    """Messages judged since the first."""

    newest_us: int

    rolling: tuple[Rolling, ...]
    """One per view of the recipe."""

    dead_before: set[int]
    """Dead letters that a killed consumer committed ahead of the table."""

    begin: int = 0
    """Offset of the first message that is not committed."""

    pending: list[Judged] = field(default_factory=list)
    """Judged since the last commit."""

    dirty: list[set[Key]] = field(default_factory=list)
    """Per view, the entities whose values the online store does not have yet."""

    def take(self, messages: Messages, judged: Judged) -> None:
        """Take in what messages that follow were judged to be, and count their events."""
        if not self.pending:
            self.begin = messages.offsets[0] if self.committed is None else self.committed
        self.pending.append(judged)
        self.newest_us = judged.newest_us
        self.next = messages.offsets[-1] + 1
        self.read += len(messages.offsets)
        for rolling, dirty in zip(self.rolling, self.dirty, strict=True):
            dirty.update(rolling.add(judged.rows))

    def advance(self, to_us: int) -> None:
        """Let go of what has left the windows by this moment."""
        for rolling, dirty in zip(self.rolling, self.dirty, strict=True):
            dirty.update(rolling.advance(to_us))

    def done(self) -> None:
        """Everything that was judged is in the table now."""
        self.committed = self.next
        self.pending.clear()
        self.dead_before.clear()


def restore(recipe: StreamRecipe, catalog: Catalog, partition: str) -> Held:
    """Make a partition's state from the table: its position, its newest event, its windows."""
    place = recipe.place(partition)
    table, version = recipe.contract.table, catalog.version(recipe.contract.table)
    committed = positions.positions(catalog, table, [place]).get(place)
    ours = pl.col(PARTITION) == place
    rows = pl.DataFrame()
    if version is not None:
        rows = positions.rows(catalog, table, list(_used(recipe)), ours)
    dead = positions.rows(catalog, recipe.dead_letters, [OFFSET], ours)
    offsets = dead[OFFSET] if dead.width else pl.Series([], dtype=pl.Int64)
    ahead = offsets if committed is None else offsets.filter(offsets >= committed)
    newest_us = OLDEST_US
    rolling = tuple(Rolling(view.aggregates, recipe.key_types(view)) for view in recipe.views)
    dirty: list[set[Key]] = [set() for _ in rolling]
    if rows.height:
        newest_us = int(rows.select(pl.col(recipe.time).max().dt.epoch("us")).item())
        for view, one, changed in zip(recipe.views, rolling, dirty, strict=True):
            what = view.aggregates
            oldest = newest_us - what.longest_us - round(recipe.lateness_s * 1e6)
            inside = rows.filter(pl.col(recipe.time).dt.epoch("us") >= oldest)
            changed.update(one.add(inside))
    return Held(
        partition=partition,
        committed=committed,
        next=committed,
        read=rows.height + len(offsets) - len(ahead),
        newest_us=newest_us,
        rolling=rolling,
        dead_before=set(ahead.to_list()),
        dirty=dirty,
    )


def _used(recipe: StreamRecipe) -> Mapping[str, None]:
    """Columns that windows and watermark are made of."""
    used = {recipe.time: None}
    for view in recipe.views:
        used |= dict.fromkeys(view.aggregates.keys)
        used |= {item.column: None for item in view.aggregates.measures}
    return used
