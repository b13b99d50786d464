"""Pure: what becomes of each message, a row or a dead letter with its reason."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import accumulate

import polars as pl

from heliostat.data import checks, typed_rows
from heliostat.data.rows import LINE
from heliostat.streams.messages import Messages
from heliostat.streams.recipe import OFFSET, PARTITION, StreamRecipe

DEAD = pl.Schema(
    {
        PARTITION: pl.String(),
        OFFSET: pl.Int64(),
        "arrived": pl.Datetime("us", "UTC"),
        "kind": pl.String(),
        "reason": pl.String(),
        "raw": pl.Binary(),
    }
)
"""Columns of dead letters; ``raw`` is the message, byte by byte."""

NO_DEAD = pl.DataFrame(schema=DEAD)

OLDEST_US = -(2**62)
"""Newest event of a partition that has none."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Judged:
    """Every message is in one of the two, in the order of offsets."""

    rows: pl.DataFrame
    dead: pl.DataFrame

    newest_us: int
    """Newest event of the partition so far; the watermark is `lateness_s` behind it."""


class Judge:
    """Knows a stream's rules.

    What it says of a message depends on those before it in the partition and on its arrival, never
    on batches, consumers or kills.
    """

    def __init__(self, recipe: StreamRecipe) -> None:
        self._recipe = recipe
        self._lateness_us = round(recipe.lateness_s * 1e6)
        self._ahead_us = round(recipe.max_ahead_s * 1e6)

    @cached_property
    def _limits(self) -> str:
        return f"{self._recipe.max_ahead_s:g} s"

    def judge(self, messages: Messages, newest_us: int, dead_before: Collection[int]) -> Judged:
        """Say what becomes of some messages of one partition.

        Args:
            messages: They follow, without a gap, those that were judged before.
            newest_us: What the last `Judged` of the partition had; `OLDEST_US` at first.
            dead_before: Offsets that are in the table of dead letters already: what was told
                there stays, even if a clock would now allow more.
        """
        (found,) = self.judge_all([(messages, newest_us, dead_before)])
        return found

    def judge_all(self, parts: Sequence[tuple[Messages, int, Collection[int]]]) -> list[Judged]:
        """Judge messages of several partitions; the same as `judge` of each, with less work."""
        lines = [
            value.replace(b"\n", b" ") for messages, _, _ in parts for value in messages.values
        ]
        parsed = typed_rows.parse_json(b"\n".join(lines) + b"\n", ())
        refused: dict[int, tuple[str, str]] = {
            number: ("empty", "message: must not be empty")
            for number, line in enumerate(lines)
            if not line.strip()
        }
        refused |= {item.line: ("malformed", item.reason) for item in parsed.malformed}
        good, broken = checks.check(parsed.rows, self._recipe.contract, _EPOCH)
        refused |= {item.line: ("contract", item.reason) for item in broken}
        made, begin = [], 0
        places = good[LINE].search_sorted(_ends(parts)).to_list()
        for (messages, newest_us, dead_before), start, stop in zip(
            parts, [0, *places], places, strict=False
        ):
            end = begin + len(messages.offsets)
            mine = {n - begin: why for n, why in refused.items() if begin <= n < end}
            rows = good[start:stop].with_columns(pl.col(LINE) - begin)
            made.append(self._judged(messages, rows, mine, newest_us, dead_before))
            begin = end
        return made

    def _judged(
        self,
        messages: Messages,
        good: pl.DataFrame,
        refused: dict[int, tuple[str, str]],
        newest_us: int,
        dead_before: Collection[int],
    ) -> Judged:
        recipe = self._recipe
        for number, offset in enumerate(messages.offsets if dead_before else ()):
            if offset in dead_before:
                refused[number] = ("before", "")
        rows, newest_us, more = self._in_time(good, messages, newest_us, refused)
        refused |= more
        if not refused:
            return Judged(rows, NO_DEAD, newest_us)
        dead = pl.DataFrame(
            [
                (
                    recipe.place(messages.partition), messages.offsets[number],
                    messages.arrived_us[number], kind, reason, messages.values[number],
                )
                for number, (kind, reason) in sorted(refused.items())
                if kind != "before"
            ],
            schema={**DEAD, "arrived": pl.Int64()}, orient="row",
        ).cast({"arrived": DEAD["arrived"]})  # fmt: skip
        return Judged(rows, dead, newest_us)

    def _in_time(
        self,
        good: pl.DataFrame,
        messages: Messages,
        newest_us: int,
        refused: dict[int, tuple[str, str]],
    ) -> tuple[pl.DataFrame, int, dict[int, tuple[str, str]]]:
        recipe = self._recipe
        place = pl.lit(recipe.place(messages.partition), dtype=pl.String).alias(PARTITION)
        if refused:
            good = good.filter(~pl.col(LINE).is_in(list(refused)))
        lines = good[LINE]
        rows = good.with_columns(
            place,
            pl.Series(messages.offsets, dtype=pl.Int64).gather(lines).alias(OFFSET),
            pl.Series(messages.arrived_us, dtype=pl.Int64).gather(lines).alias("__arrived"),
            pl.col(recipe.time).dt.epoch("us").alias("__at"),
        )
        ahead = pl.col("__at") - pl.col("__arrived") > self._ahead_us
        found: dict[int, tuple[str, str]] = {}
        early = rows.filter(ahead)
        for line, at, arrived in early.select(LINE, "__at", "__arrived").iter_rows():
            reason = (
                f"{recipe.time} is {(at - arrived) / 1e6:.3f} s after the arrival: must be at most "
                f"{self._limits}; a clock is wrong"
            )
            found[line] = ("future", reason)
        rows = rows.filter(~ahead) if early.height else rows
        # The watermark of a row is made of the rows before it, so batches make no difference.
        rows = rows.with_columns(
            pl.max_horizontal(
                pl.col("__at").cum_max().shift(1).fill_null(newest_us), pl.lit(newest_us)
            ).alias("__newest")
        )
        late = pl.col("__at") < pl.col("__newest") - self._lateness_us
        behind = rows.filter(late)
        for line, at, newest in behind.select(LINE, "__at", "__newest").iter_rows():
            reason = (
                f"{recipe.time} is {(newest - at) / 1e6:.3f} s before the partition's newest event: "
                f"must be at most {recipe.lateness_s:g} s"
            )
            found[line] = ("late", reason)
        rows = rows.filter(~late) if behind.height else rows
        if rows.height:
            newest_us = max(newest_us, int(rows["__at"].max()))  # type: ignore[arg-type]
        return rows.select(recipe.schema().names()), newest_us, found


def _ends(parts: Sequence[tuple[Messages, int, Collection[int]]]) -> pl.Series:
    """Line after the last of each part."""
    return pl.Series(accumulate(len(messages.offsets) for messages, _, _ in parts), dtype=pl.Int64)
