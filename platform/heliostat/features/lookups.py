"""Pure: what a reader of packed records asks a server for, and what the answer means."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from heliostat.config import require
from heliostat.features import wire
from heliostat.features.packed import PackedView, feast_names, microseconds

Keys = Mapping[str, Sequence[str | int | None]]


class Lookups:
    """Names records of a service's views by entity keys, and decodes them."""

    def __init__(self, views: Sequence[PackedView]) -> None:
        """Prepare.

        Args:
            views: What to read, by the versions that the model was trained on.
        """
        require(bool(views), "online views", (), "must be at least one")
        self._views = [(view, view.key_encoder(), view.codec()) for view in views]
        is_plain = len(views) == 1 and len(views[0].keys) == 1
        self._only_key = views[0].keys[0] if is_plain else None

    def names(self, keys: Keys) -> list[bytes]:
        """Name one record per view and row, all rows of the first view first.

        A row without a key has an empty name, which no record has.

        Raises:
            ConfigError: A key is missing, or lengths differ.
        """
        found: list[bytes] = []
        only = self._only_key
        if only is not None and only in keys:
            # One view of one key, as most services have it: no rows need to be put together.
            encode = self._views[0][1]
            return [b"" if value is None else encode((value,)) for value in keys[only]]
        rows = rows_of(keys, [view.keys for view, _, _ in self._views])
        for (_, encode, _), entities in zip(self._views, rows, strict=True):
            found += [b"" if row is None else encode(row) for row in entities]
        return found

    def decode(
        self, records: Sequence[bytes | None], at: datetime | None
    ) -> dict[str, list[wire.Value]]:
        """Read what came for `names`.

        Args:
            records: One per name, None where there is none.
            at: The moment to read as of: values older than their view's time to live are
                missing, and so are values newer than `at`. None takes this machine's clock for
                the time to live, and every value that is stored.

        Returns:
            Every feature of the service: its values, None where missing.
        """
        at_us, latest_us = moments_us(at)
        if len(self._views) == 1:
            ((view, _, codec),) = self._views
            return dict(zip(view.features, codec.decode(records, at_us, latest_us), strict=True))
        rows = len(records) // len(self._views)
        found: dict[str, list[wire.Value]] = {}
        for index, (view, _, codec) in enumerate(self._views):
            columns = codec.decode(records[index * rows : (index + 1) * rows], at_us, latest_us)
            found.update(zip(view.features, columns, strict=True))
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class HashView:
    """A view whose values lie in Feast's hash of each entity, and nowhere else."""

    project: str
    name: str
    keys: tuple[str, ...]
    features: tuple[str, ...]
    ttl_us: int | None


class HashLookups:
    """Names the fields of a service's views in Feast's hashes, and decodes them."""

    def __init__(self, views: Sequence[HashView]) -> None:
        """Prepare.

        Args:
            views: What to read.
        """
        require(bool(views), "online views", (), "must be at least one")
        self._views = [
            (view, wire.key_encoder(view.keys), feast_names(view.name, view.features))
            for view in views
        ]

    def commands(self, keys: Keys) -> list[list[bytes]]:
        """One command per view and row, all rows of the first view first; see `Lookups.names`."""
        found = []
        rows = rows_of(keys, [view.keys for view, _, _ in self._views])
        for (view, encode, (names, time_name)), entities in zip(self._views, rows, strict=True):
            suffix = view.project.encode()
            found += [
                [b"HMGET", b"" if row is None else encode(row) + suffix, time_name, *names]
                for row in entities
            ]
        return found

    def decode(
        self, replies: Sequence[Sequence[bytes | None]], at: datetime | None
    ) -> dict[str, list[wire.Value]]:
        """Read what came for `commands`; see `Lookups.decode`.

        Raises:
            HeliostatError: A value is of a type that is not decoded here.
        """
        at_us, latest_us = moments_us(at)
        rows = len(replies) // len(self._views)
        found: dict[str, list[wire.Value]] = {}
        for index, (view, _, _) in enumerate(self._views):
            columns: list[list[wire.Value]] = [[None] * rows for _ in view.features]
            for row, (stamp, *values) in enumerate(replies[index * rows : (index + 1) * rows]):
                if stamp is None:
                    continue
                event_us = wire.decode_time(stamp)
                if (view.ttl_us is not None and at_us - event_us > view.ttl_us) or (
                    latest_us is not None and event_us > latest_us
                ):
                    continue
                for column, value in zip(columns, values, strict=True):
                    column[row] = None if value is None else wire.decode(value)
            found.update(zip(view.features, columns, strict=True))
        return found


def rows_of(
    keys: Keys, wanted: Sequence[Sequence[str]]
) -> list[list[tuple[str | int, ...] | None]]:
    """The entities to look up, for each of several lists of keys; None where a key is missing.

    Raises:
        ConfigError: A key is not there, or lengths differ.
    """
    found: list[list[tuple[str | int, ...] | None]] = []
    length: int | None = None
    for names in wanted:
        columns: list[Sequence[Any]] = []
        for name in names:
            require(name in keys, "entity keys", name, "must be given")
            values = keys[name]
            length = len(values) if length is None else length
            require(
                len(values) == length, f"entity key {name}", len(values),
                f"must have {length} values, as the other keys",
            )  # fmt: skip
            columns.append(values)
        found.append([None if None in row else row for row in zip(*columns, strict=True)])
    return found


def moments_us(at: datetime | None) -> tuple[int, int | None]:
    """The moment that ages are measured to, and the latest event that counts, if one is."""
    if at is None:
        return time.time_ns() // 1000, None
    return microseconds(at), microseconds(at)
