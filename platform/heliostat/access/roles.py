"""Who asks, and what they may do: three roles, each of which holds the ones before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from heliostat.config import require
from heliostat.errors import nearest

Role = Literal["predict", "operate", "admin"]

ROLES: tuple[str, ...] = get_args(Role)
"""From least to most: ask for predictions; name versions and read shadow results; all else."""

_RANK = {role: rank for rank, role in enumerate(ROLES)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Principal:
    """A caller whose credential was good."""

    name: str
    """Id of the API key, or issuer and subject of the token; never the credential."""

    role: str
    """One of ROLES."""

    models: frozenset[str] | None = None
    """The only models it may ask for; None for all."""

    rate_per_s: float | None = None
    """Requests per second over all replicas together; None for no limit."""

    burst: int = 1
    """Requests that may come at once."""

    def __post_init__(self) -> None:
        require_role("principal.role", self.role)
        _require_rate("principal", self.rate_per_s, self.burst)

    def may(self, role: str, model: str | None) -> bool:
        """Say whether it holds the role, for the model where one is named.

        >>> caller = Principal(name="k1", role="operate", models=frozenset({"churn"}))
        >>> caller.may("predict", "churn"), caller.may("predict", "price")
        (True, False)
        >>> caller.may("admin", "churn"), caller.may("operate", None)
        (False, True)
        """
        if _RANK[self.role] < _RANK[role]:
            return False
        return model is None or self.models is None or model in self.models


def require_role(where: str, role: str) -> None:
    """Check that the role is one of ROLES.

    Raises:
        ConfigError: It is not; names the nearest one.
    """
    require(role in _RANK, where, role, "must be a role", breaks=nearest(str(role), ROLES))


def _require_rate(where: str, rate_per_s: float | None, burst: int) -> None:
    require(
        rate_per_s is None or rate_per_s > 0,
        f"{where}.rate_per_s", rate_per_s, "must be above 0, or none for no limit",
    )  # fmt: skip
    require(burst >= 1, f"{where}.burst", burst, "must be at least 1")
