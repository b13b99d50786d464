"""Results of finished pipeline stages, found again by the digest of their inputs."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from heliostat.store import schema


class StageResults:
    """Remembers what a stage returned, so that the same inputs need not be worked on again."""

    def __init__(self, path: str | Path) -> None:
        """Use the state database at `path`; it is opened at first use."""
        self._database = schema.Database(path)

    def get(self, key: str) -> dict[str, Any] | None:
        """Return what was put under the key, or None."""
        table = schema.stage_results
        rows = self._database.read(sa.select(table.c.result).where(table.c.key == key))
        return json.loads(rows[0].result) if rows else None

    def put(self, key: str, result: dict[str, Any], now: datetime) -> None:
        """Store a finished stage's result, replacing an earlier one under the same key.

        Once this returns, a kill does not lose it; before, nothing of it is seen.

        Args:
            key: Digest of everything the result depends on.
            result: Plain JSON values.
            now: Time of the result, with a timezone.
        """
        table = schema.stage_results
        values = {"result": json.dumps(result, sort_keys=True), "at": now.isoformat()}
        with self._database.write() as connection:
            connection.execute(sa.delete(table).where(table.c.key == key))
            connection.execute(sa.insert(table).values(key=key, **values))
