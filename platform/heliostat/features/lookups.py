"""Pure: what a reader of packed records asks a server for, and what the answer means."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from heliostat.config import require
from heliostat.features import wire
from heliostat.features.packed import PackedView, microseconds

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

    def names(self, keys: Keys) -> list[bytes]:
        """Name one record per view and row, all rows of the first view first.

        A row without a key has an empty name, which no record has.

        Raises:
            ConfigError: A key is missing, or lengths differ.
        """
        found: list[bytes] = []
        length: int | None = None
        for view, encode, _ in self._views:
            columns = []
            for name in view.keys:
                require(name in keys, "entity keys", name, "must be given")
                values = keys[name]
                length = len(values) if length is None else length
                require(
                    len(values) == length, f"entity key {name}", len(values),
                    f"must have {length} values, as the other keys",
                )  # fmt: skip
                columns.append(values)
            found += [
                b"" if None in row or _nan(row) else encode(row)
                for row in zip(*columns, strict=True)
            ]
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
        if at is None:
            at_us, latest_us = time.time_ns() // 1000, None
        else:
            at_us = latest_us = microseconds(at)
        rows = len(records) // len(self._views)
        found: dict[str, list[wire.Value]] = {}
        for index, (view, _, codec) in enumerate(self._views):
            columns = codec.decode(records[index * rows : (index + 1) * rows], at_us, latest_us)
            found.update(zip(view.features, columns, strict=True))
        return found


def _nan(row: Sequence[Any]) -> bool:
    return any(value != value for value in row)  # noqa: PLR0124 - only NaN differs from itself
