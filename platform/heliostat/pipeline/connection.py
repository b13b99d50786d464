"""What a job knows of the platform it runs on, read once from its environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from heliostat.control.client import ControlClient
from heliostat.errors import ConfigError
from heliostat.lineage.events import Lineage
from heliostat.store.home import Home


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """Addresses of the platform's parts."""

    home: Home
    endpoint: str
    tracking_uri: str
    dashboard_url: str

    revision: str
    """Revision of the code that runs, recorded with everything it makes."""

    api_key: str | None = field(default=None, repr=False)
    """Sent to the controller; needed once it has keys."""

    online_store: str = field(default="file", repr=False)
    """Where features are written for serving; a URL may hold a password."""

    lineage_url: str | None = None
    """An OpenLineage server that gets the events too."""

    def control(self) -> ControlClient:
        """Talk to the rollout controller."""
        return ControlClient(endpoint=self.endpoint, api_key=self.api_key)

    def lineage(self) -> Lineage:
        """Where a job tells what it read and made."""
        return Lineage(
            self.home.root / "lineage", revision=self.revision, url=self.lineage_url,
            tables=self.home.tables,
        )  # fmt: skip

    @staticmethod
    def from_environment(environment: Mapping[str, str]) -> Connection:
        """Read the variables that ``heliostat env`` prints and ``heliostat submit`` sets.

        Raises:
            ConfigError: One of them is missing.
        """

        def need(name: str) -> str:
            value = environment.get(name)
            if not value:
                raise ConfigError(
                    name, value, "must be set for a job",
                    next_step='Run: heliostat up && eval "$(heliostat env)"',
                )  # fmt: skip
            return value

        from heliostat.features import stores

        return Connection(
            home=Home(root=Path(need("HELIOSTAT_HOME"))),
            endpoint=need("HELIOSTAT_ENDPOINT"),
            tracking_uri=need("MLFLOW_TRACKING_URI"),
            dashboard_url=need("HELIOSTAT_DASHBOARD"),
            revision=environment.get("HELIOSTAT_REVISION", "unknown"),
            api_key=environment.get("HELIOSTAT_API_KEY"),
            online_store=stores.of_environment(environment),
            lineage_url=environment.get("OPENLINEAGE_URL"),
        )
