"""What a recipe costs, from a price table that the user names; none is built in.

A table is YAML: a source and a date, and prices per node of a pool and hour::

    source: https://cloud.example.com/prices
    date: 2026-11-01
    currency: USD
    per_hour:
      cpu: 0.40
      cpu-spot: 0.15
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heliostat.clusters import targets
from heliostat.clusters.document import mapping, read_value
from heliostat.clusters.recipe import ClusterRecipe, CpuGroup, GpuGroup, TpuGroup
from heliostat.config import require
from heliostat.errors import ConfigError, nearest

HOURS_PER_MONTH = 730.0
"""365 days of 24 hours in 12 parts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PriceTable:
    """Prices per node and hour, and where they were read."""

    source: str
    date: str
    currency: str
    per_hour: Mapping[str, Any]
    """Price of one worker's node, by pool; ``system`` for nodes of heads and services."""

    def __post_init__(self) -> None:
        require(bool(self.source), "prices.source", self.source, "must name where they were read")
        require(bool(re.match(r"^\d{4}-\d{2}-\d{2}$", self.date)), "prices.date", self.date,
                "must be the day they were read, as 2026-11-01")  # fmt: skip
        require(bool(self.currency), "prices.currency", self.currency, "must be set")
        for name, price in self.per_hour.items():
            is_price = isinstance(price, int | float) and not isinstance(price, bool) and price >= 0
            require(is_price, f"prices.per_hour.{name}", price, "must be a number of 0 or more")

    @staticmethod
    def read(path: Path | None) -> PriceTable:
        """Read a table.

        Raises:
            ConfigError: None is named, it cannot be read, or a part is missing.
        """
        if path is None:
            raise ConfigError(
                "--prices", None, "must name a price table of yours",
                breaks="prices differ by region, contract and day, so none is built in",
                next_step="Its form is shown in platform/docs/clusters/overview.md",
            )  # fmt: skip
        try:
            raw = mapping(read_value(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ConfigError(
                "--prices", str(path), "must be readable YAML", breaks=str(error)
            ) from error
        known = ("source", "date", "currency", "per_hour")
        for key in raw:
            require(key in known, "prices", key, "is no key here", breaks=nearest(str(key), known))
        return PriceTable(
            source=str(raw.get("source") or ""),
            date=str(raw.get("date") or ""),
            currency=str(raw.get("currency") or ""),
            per_hour=mapping(raw.get("per_hour")),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One pool's part."""

    pool: str
    num_nodes: float
    per_hour: float
    per_month: float


def price(
    recipe: ClusterRecipe, table: PriceTable, *, busy_ratio: float = 1.0, num_heads: int = 2
) -> tuple[Line, ...]:
    """Price a recipe's pools, busy for a share of the time, with their spot shares.

    Each pool counts once, at most workers; the service's least workers always run. What is spot is
    priced as spot, and the on-demand part is what spot does not cover.

    Args:
        recipe: The platform.
        table: Prices of the user's own.
        busy_ratio: Share of the time in which pools run at full size, 0 to 1.
        num_heads: Heads and system nodes that always run.

    Raises:
        ConfigError: The table lacks a pool, or `busy_ratio` is out of range.
    """
    require(0 <= busy_ratio <= 1, "--busy", busy_ratio, "must be 0 to 1")
    amounts: dict[str, float] = {"system": float(num_heads)}
    groups: list[CpuGroup | GpuGroup | TpuGroup] = [recipe.cpu, *recipe.gpus, *recipe.tpus]
    for group in groups:
        pools = targets.pools(group)
        spot = sum(pool.max_workers for pool in pools if pool.is_spot)
        for pool in pools:
            num_nodes = pool.max_workers if pool.is_spot else pool.max_workers - spot
            if isinstance(group, TpuGroup):
                num_nodes *= group.num_hosts
            always = recipe.serve_min_workers if pool.name == recipe.cpu.name else 0
            amounts[pool.name] = max(always, num_nodes * busy_ratio)
    for name in amounts:
        require(name in table.per_hour, "prices.per_hour", name, "must have a price",
                breaks="known: " + ", ".join(sorted(table.per_hour)))  # fmt: skip
    return tuple(
        Line(
            pool=name,
            num_nodes=num_nodes,
            per_hour=num_nodes * table.per_hour[name],
            per_month=num_nodes * table.per_hour[name] * HOURS_PER_MONTH,
        )
        for name, num_nodes in amounts.items()
    )


def to_json(lines: tuple[Line, ...], table: PriceTable) -> dict[str, Any]:
    """Give the lines with source, date and sum."""
    return {
        "source": table.source,
        "date": table.date,
        "currency": table.currency,
        "pools": [
            {
                "pool": line.pool,
                "num_nodes": round(line.num_nodes, 2),
                "per_hour": round(line.per_hour, 4),
                "per_month": round(line.per_month, 2),
            }
            for line in lines
        ],
        "per_month": round(sum(line.per_month for line in lines), 2),
    }
