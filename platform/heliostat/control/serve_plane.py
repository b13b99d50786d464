"""The real plane and registry: Ray Serve applications, the plane actor, MLflow's versions."""

from __future__ import annotations

import os
import threading
import urllib.error
import urllib.request
from pathlib import Path

from heliostat.lineage.events import Lineage, Node
from heliostat.registry.tracking import Tracking
from heliostat.registry.versions import Registry
from heliostat.rollout.policy import Policy, Role
from heliostat.rollout.protocols import Package
from heliostat.serving import deployments
from heliostat.store.home import Home

_STABLE_ALIAS = "stable"


class ServePlane:
    """Carries traffic on this Ray cluster; see `rollout.protocols.Plane`."""

    def __init__(self, home: Path, endpoint: str, max_replicas: int | None = None) -> None:
        """Remember where things are; nothing is contacted yet.

        Args:
            home: The platform's state folder.
            endpoint: Base URL of the ingress.
            max_replicas: Of a version on trial; see `deployments.start_variant`.
        """
        self._home = home
        self._max_replicas = max_replicas
        self._endpoint = endpoint
        self._epoch = -1
        # Serve's client is one per process; two applications at a time are asked for in turn.
        self._starting = threading.Lock()

    def start_variant(self, model: str, version: str, package: Package) -> str:
        """Start the version's Serve application and wait until it answers."""
        with self._starting:
            return deployments.start_variant(
                model,
                version,
                package.path,
                package.digest,
                self._home,
                endpoint=self._endpoint,
                max_replicas=self._max_replicas,
            )

    def stop_variant(self, model: str, version: str) -> None:
        """Delete the version's Serve application."""
        with self._starting:
            deployments.stop_variant(model, version)

    def publish(self, policy: Policy) -> None:
        """Hand the policy to the plane actor, which every gateway follows."""
        deployments.publish(policy)
        self._epoch = max(self._epoch, policy.epoch)

    def ready(self, model: str, version: str) -> bool:
        """Whether all gateways obey the last policy and one of them says it is ready."""
        if not deployments.wait_active(self._epoch, timeout_s=1.0):
            return False
        url = f"{self._endpoint}/v2/models/{model}/versions/{version}/ready"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(url, timeout=2.0) as response:
                return bool(response.status == 200)
        except (OSError, urllib.error.HTTPError):
            return False


def num_nodes() -> int:
    """Count the nodes of this Ray cluster that are alive."""
    import ray

    return sum(bool(node["Alive"]) for node in ray.nodes())


class RegistryVersions:
    """Finds versions in the registry; see `rollout.protocols.Versions`."""

    def __init__(self, tracking_uri: str, home: Home) -> None:
        """Remember where MLflow is; nothing is contacted yet."""
        self._registry = Registry(Tracking(tracking_uri), home)
        self._lineage = Lineage(home.root / "lineage", url=os.environ.get("OPENLINEAGE_URL"))

    def find(self, model: str, version: str) -> Package:
        """Return the version's verified package, downloading it if need be."""
        found = self._registry.get(model, version)
        return Package(path=str(found.path), digest=found.digest)

    def announce(self, model: str, version: str, role: Role) -> None:
        """Tell lineage that the version is deployed; a stable one gets MLflow's alias too."""
        try:
            if role == "stable":
                self._registry.set_alias(model, _STABLE_ALIAS, version)
        finally:
            # It is deployed, whether MLflow answers or not.
            self._lineage.emit(
                "COMPLETE", role, f"{model}@{version}",
                inputs=[Node(kind="model", name=model, version=version)],
                outputs=[Node(kind="deployment", name=model, version=version)],
            )  # fmt: skip
