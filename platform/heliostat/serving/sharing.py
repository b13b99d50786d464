"""Divides callers' rates among all gateways, beside the requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from heliostat.errors import HeliostatError
from heliostat.serving.admission import Door


class RateSource(Protocol):
    """Knows what every gateway was asked for; `heliostat.serving.plane.PlaneRates` is one."""

    async def divide(self, wanted: Mapping[str, tuple[float, int]]) -> tuple[dict[str, float], int]:
        """Tell what this gateway saw, and return its shares and how many gateways there are.

        Args:
            wanted: By caller, the whole rate per second and the requests since the last call.

        Raises:
            HeliostatError: Nobody answers now.
        """
        ...


async def share_rates(door: Door, rates: RateSource) -> None:
    """Take new shares; without them for a while, equal ones."""
    wanted = door.wanted()
    if not wanted:
        return
    try:
        shares, num_gateways = await rates.divide(wanted)
    except HeliostatError:
        door.fall_back()
        return
    door.obey(shares, num_gateways)
