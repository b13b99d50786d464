"""How streams stand, read from the commits of their tables; asks no broker and no Ray."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import polars as pl

from heliostat.data import positions
from heliostat.data.tables import Catalog

_LOOK_BACK = 200
"""Commits that are looked through for the newest word on each partition."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartitionStatus:
    """One partition of a stream, as its last commit left it."""

    place: str
    """Stream and partition, as ``orders/3``."""

    position: int | None
    """Offset of the next message that is not in the table; None where none is."""

    watermark: float | None
    """Seconds since 1970: older events are late. None before the first event."""

    behind: int | None
    """Messages that were not read yet at the last commit; None where the broker did not say."""

    consumer: str

    at: str
    """When its reader last committed, ISO 8601."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamStatus:
    """One stream."""

    name: str
    table: str
    topic: str
    rows: int
    dead_letters: dict[str, int]
    """By kind."""
    partitions: tuple[PartitionStatus, ...]


def status(catalog: Catalog) -> list[StreamStatus]:
    """Find every stream that has committed to a table of the catalog."""
    found = []
    for table in catalog.names():
        words = _newest_words(catalog, table)
        for name in sorted({word["name"] for _, word in words.values()}):
            mine = {place: at for place, at in words.items() if at[1]["name"] == name}
            moved = positions.positions(catalog, table, list(mine))
            found.append(
                StreamStatus(
                    name=name,
                    table=table,
                    topic=next(iter(mine.values()))[1]["topic"],
                    rows=catalog.num_rows(table),
                    dead_letters=_dead(catalog, f"{table}_dead_letters"),
                    partitions=tuple(
                        PartitionStatus(
                            place=place,
                            position=moved.get(place),
                            watermark=stand["watermark"],
                            behind=stand["behind"],
                            consumer=word["consumer"],
                            at=word["at"],
                        )
                        for place, (stand, word) in sorted(mine.items())
                    ),
                )
            )
    return found


def _newest_words(catalog: Catalog, table: str) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """By place, what the newest commit that knows it says of it, and of its consumer."""
    words: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for number, entry in enumerate(catalog.entries(table)):
        word = entry.details.get("stream")
        if word is None and number == 0 and entry.operation in ("overwrite", "append"):
            return {}
        if number >= _LOOK_BACK:
            break
        if word is not None:
            for place, stand in word["partitions"].items():
                words.setdefault(place, (stand, word))
    return words


def _dead(catalog: Catalog, table: str) -> dict[str, int]:
    kinds = positions.rows(catalog, table, ["kind"], pl.lit(value=True))
    return dict(Counter(kinds["kind"].to_list()).most_common()) if kinds.width else {}
