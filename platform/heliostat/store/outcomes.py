"""Outcomes of units, such as orders or clicks: each once, kept for comparisons of versions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from heliostat.store import schema


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """One thing that a unit did."""

    outcome_id: str
    """Names it; the same outcome may be reported again."""

    unit: str
    metric: str
    value: float
    at: float
    """When it happened, in seconds since 1970."""


@dataclass(frozen=True, kw_only=True, slots=True)
class UnitSums:
    """What is known of one unit's outcomes of one metric."""

    unit: str
    value: float
    """Sum of its values since the moment that was asked about."""

    events: int
    """Their number."""

    before: float
    """Sum of its values before that moment."""


class Outcomes:
    """The outcomes of one state database."""

    def __init__(self, url_or_path: str | Path) -> None:
        """Use the state database; it is opened at first use."""
        self._database = schema.Database(url_or_path)

    def add(self, model: str, outcomes: Sequence[Outcome]) -> int:
        """Keep outcomes; returns how many were not known yet."""
        if not outcomes:
            return 0
        rows = {
            item.outcome_id: {
                "model": model,
                "outcome_id": item.outcome_id,
                "unit": item.unit,
                "metric": item.metric,
                "value": item.value,
                "at": item.at,
            }
            for item in outcomes
        }
        table = schema.outcomes
        with self._database.write() as connection:
            known = connection.execute(
                sa.select(table.c.outcome_id).where(
                    table.c.model == model, table.c.outcome_id.in_(rows)
                )
            )
            for row in known:
                del rows[row.outcome_id]
            if rows:
                connection.execute(sa.insert(table), list(rows.values()))
        return len(rows)

    def metrics(self, model: str) -> list[str]:
        """Names of the metrics that were ever reported about a model."""
        table = schema.outcomes
        query = sa.select(table.c.metric).where(table.c.model == model).distinct()
        return sorted(row.metric for row in self._database.read(query))

    def by_unit(self, model: str, metric: str, since: float, until: float) -> list[UnitSums]:
        """Sums of each unit that has an outcome from `since` to `until`, both included."""
        table = schema.outcomes
        after = table.c.at >= since
        query = (
            sa.select(
                table.c.unit,
                sa.func.sum(sa.case((after, table.c.value), else_=0.0)).label("value"),
                sa.func.sum(sa.case((after, 1), else_=0)).label("events"),
                sa.func.sum(sa.case((after, 0.0), else_=table.c.value)).label("before"),
            )
            .where(table.c.model == model, table.c.metric == metric, table.c.at <= until)
            .group_by(table.c.unit)
        )
        return [
            UnitSums(unit=row.unit, value=row.value, events=row.events, before=row.before)
            for row in self._database.read(query)
            if row.events
        ]
