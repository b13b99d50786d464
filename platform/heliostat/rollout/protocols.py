"""What a rollout needs from the outside to be carried out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from heliostat.rollout.policy import Policy, Role


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """Where a verified model version lies."""

    path: str
    digest: str


class Versions(Protocol):
    """Finds model versions."""

    def find(self, model: str, version: str) -> Package:
        """Return the verified package of a version, fetching it if need be.

        Raises:
            ConfigError: There is no such version, or it fails verification.
            Unavailable: The registry does not answer and nothing is cached.
        """
        ...

    def announce(self, model: str, version: str, role: Role) -> None:
        """Tell people's tools what a version answers as now; may fail without consequence."""
        ...


class Plane(Protocol):
    """Carries traffic; every call may be repeated."""

    def start_variant(self, model: str, version: str, package: Package) -> str:
        """Bring up a version's own capacity, or find it up; returns its URL when it can answer."""
        ...

    def stop_variant(self, model: str, version: str) -> None:
        """Take a version's own capacity down, if it is up."""
        ...

    def publish(self, policy: Policy) -> None:
        """Hand the policy to all gateways; an epoch that they have already changes nothing."""
        ...

    def ready(self, model: str, version: str) -> bool:
        """Whether the gateways answer for the model with this version as the stable one."""
        ...
