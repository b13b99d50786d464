"""A fake plane and registry that remember what they were told, and check the order of it."""

from __future__ import annotations

from collections.abc import Sequence

from heliostat.errors import ConfigError, Unavailable
from heliostat.rollout.policy import Policy, Role
from heliostat.rollout.protocols import Package


class FakePlane:
    """Carries no traffic, but refuses what would hurt real traffic.

    Set `down` to make every call fail, and `never_ready` to name versions that gateways
    cannot load.
    """

    def __init__(self) -> None:
        self.running: set[tuple[str, str]] = set()
        """Models and versions that have capacity of their own."""

        self.policy: Policy | None = None
        """What the gateways obey."""

        self.calls: list[str] = []
        """Every call that changed something, in order."""

        self.down = False
        self.never_ready: frozenset[str] = frozenset()

    def start_variant(self, model: str, version: str, package: Package) -> str:  # noqa: ARG002
        """Bring up capacity."""
        self._answer()
        if (model, version) not in self.running:
            self.running.add((model, version))
            self.calls.append(f"start {model}@{version}")
        return f"http://127.0.0.1:8000/variants/{model}/{version}"

    def stop_variant(self, model: str, version: str) -> None:
        """Take capacity down; refuses while it has traffic."""
        self._answer()
        used = [] if self.policy is None else self._isolated(self.policy)
        assert (model, version) not in used, f"{model}@{version} still has traffic"
        if (model, version) in self.running:
            self.running.remove((model, version))
            self.calls.append(f"stop {model}@{version}")

    def publish(self, policy: Policy) -> None:
        """Swap the policy; refuses an older epoch, and traffic to what is not running."""
        self._answer()
        if self.policy is not None and policy.epoch <= self.policy.epoch:
            assert policy.epoch < self.policy.epoch or policy == self.policy
            return
        for model, version in self._isolated(policy):
            assert (model, version) in self.running, f"{model}@{version} is not running"
        self.policy = policy
        shares = [
            f"{name}@{variant.version}={100 * item.share(index):g}%"
            for name, item in sorted(policy.models.items())
            for index, variant in enumerate(item.variants)
        ]
        self.calls.append(f"publish {policy.epoch}: {' '.join(shares)}")

    def ready(self, model: str, version: str) -> bool:
        """Whether the published policy names the version stable and it can be loaded."""
        self._answer()
        if self.policy is None or version in self.never_ready:
            return False
        item = self.policy.models.get(model)
        return item is not None and item.stable.version == version

    def share(self, model: str, version: str) -> float:
        """Share of the units that the version answers now, 0 to 1."""
        item = None if self.policy is None else self.policy.models.get(model)
        if item is None:
            return 0.0
        versions = [variant.version for variant in item.variants]
        return item.share(versions.index(version)) if version in versions else 0.0

    def _isolated(self, policy: Policy) -> list[tuple[str, str]]:
        return [
            (name, variant.version)
            for name, item in policy.models.items()
            for variant in item.variants
            if variant.placement == "isolated"
        ]

    def _answer(self) -> None:
        if self.down:
            raise Unavailable("plane", "does not answer")


class FakeVersions:
    """Knows some versions of any model; set `down` to make the registry fail."""

    def __init__(self, versions: Sequence[str] = ("1", "2", "3")) -> None:
        self.known = tuple(versions)
        self.down = False
        self.stable: dict[str, str] = {}
        """What was announced, by model."""
        self.candidates: list[tuple[str, str]] = []
        """Models and versions that were announced as on trial, in order."""

    def find(self, model: str, version: str) -> Package:
        """Return a made-up package."""
        if self.down:
            raise Unavailable("registry", "does not answer")
        if version not in self.known:
            raise ConfigError(f"version of {model}", version, "must be a registered version")
        return Package(path=f"/packages/{model}-{version}", digest=f"sha256:{model}{version}")

    def announce(self, model: str, version: str, role: Role) -> None:
        """Remember it."""
        if self.down:
            raise Unavailable("registry", "does not answer")
        if role == "stable":
            self.stable[model] = version
        else:
            self.candidates.append((model, version))
