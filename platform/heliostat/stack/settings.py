"""What a person may change about the local platform: ports, sizes, deadlines."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from heliostat.config import override, require
from heliostat.errors import ConfigError

SET_VARIABLE = "HELIOSTAT_SET"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    """TCP ports, all bound to 127.0.0.1."""

    serve: int = 8000
    """Where models answer: the endpoint."""

    mlflow: int = 5000
    """MLflow's server and user interface."""

    dashboard: int = 8265
    """Ray's dashboard and its Jobs and Serve APIs."""

    gcs: int = 6379
    """Ray's control store; drivers connect here."""

    ray_client: int = 10001
    """Ray Client, which Ray starts with every head."""

    ray_metrics: int = 8080
    """Prometheus metrics of Ray."""

    ray_agent: int = 52365
    """The node agent of Ray's dashboard."""

    ray_dashboard_metrics: int = 44227
    """Prometheus metrics of Ray's dashboard itself."""

    ingress_metrics: int = 9101
    """Prometheus metrics of the ingress (HAProxy)."""

    ingress_stats: int = 8404
    """Statistics page of the ingress (HAProxy)."""

    serve_fallback: int = 8500
    """Ray Serve's own proxy, which the ingress falls back to."""

    def __post_init__(self) -> None:
        seen: dict[int, str] = {}
        for name, port in dataclasses.asdict(self).items():
            require(
                isinstance(port, int) and 1024 <= port <= 65535,
                f"ports.{name}",
                port,
                "must be a port from 1024 to 65535",
            )
            if port in seen:
                raise ConfigError(
                    f"ports.{name}", port, "must be used once", breaks=f"ports.{seen[port]} has it"
                )
            seen[port] = name


@dataclass(frozen=True, kw_only=True, slots=True)
class StackSettings:
    """Everything about the local platform that can be set; the defaults need no thought."""

    ports: Ports = field(default_factory=Ports)

    num_cpus: int | None = None
    """Slots that Ray hands out; by default the machine's cores, at least 4, so that two
    training workers and the data tasks that feed them fit on a small machine. Serve's
    replicas take none."""

    object_store_mib: int = 1024
    """Shared memory for Ray objects, in MiB; used only as it fills."""

    start_deadline_s: float = 180.0
    """How long `up` waits for everything to answer, in seconds."""

    serve_config: str = "serve_apps/platform.yaml"
    """Serve applications of the platform; relative to the repository."""

    def __post_init__(self) -> None:
        require(
            self.num_cpus is None or self.num_cpus >= 1,
            "num_cpus", self.num_cpus, "must be at least 1",
        )  # fmt: skip
        require(
            self.object_store_mib >= 80,
            "object_store_mib", self.object_store_mib, "must be at least 80",
        )  # fmt: skip
        require(
            self.start_deadline_s > 0,
            "start_deadline_s", self.start_deadline_s, "must be positive",
        )  # fmt: skip

    @property
    def endpoint(self) -> str:
        """URL where models answer."""
        return f"http://127.0.0.1:{self.ports.serve}"

    @property
    def dashboard_url(self) -> str:
        """URL of Ray's dashboard."""
        return f"http://127.0.0.1:{self.ports.dashboard}"

    @property
    def mlflow_url(self) -> str:
        """URL of MLflow."""
        return f"http://127.0.0.1:{self.ports.mlflow}"

    @property
    def num_slots(self) -> int:
        """CPU slots that Ray hands out."""
        return self.num_cpus or max(len(os.sched_getaffinity(0)), 4)


def load_settings(environ: Mapping[str, str], assignments: Sequence[str] = ()) -> StackSettings:
    """Apply ``HELIOSTAT_SET="ports.mlflow=5001 ..."`` and then the given assignments.

    Raises:
        ConfigError: An unknown key, a value of another type or one that breaks a rule.
    """
    given = [*shlex.split(environ.get(SET_VARIABLE, "")), *assignments]
    # One port moved onto another's default would be refused half-way: set them together.
    ports = [text.removeprefix("ports.") for text in given if text.startswith("ports.")]
    others = [text for text in given if not text.startswith("ports.")]
    settings = override(StackSettings(), others)
    if not ports:
        return settings
    known = {item.name for item in dataclasses.fields(Ports)}
    values: dict[str, int] = {}
    for text in ports:
        name, _, value = text.partition("=")
        if name in known and value.isdecimal():
            values[name] = int(value)
        else:
            override(StackSettings(), [f"ports.{text}"])
    return dataclasses.replace(settings, ports=Ports(**values))


def find_repository(start: Path) -> Path:
    """Find the clone: the first folder upward from `start` that has the platform in it.

    Raises:
        ConfigError: There is none; the platform's Serve applications live in the clone.
    """
    for folder in (start.absolute(), *start.absolute().parents):
        if (folder / "platform" / "heliostat").is_dir() and (folder / "serve_apps").is_dir():
            return folder
    installed = Path(__file__).absolute().parents[3]
    if (installed / "serve_apps").is_dir():
        return installed
    raise ConfigError(
        "working directory", str(start), "must be inside a clone of Heliostat",
        next_step="cd to the folder that has the Makefile",
    )  # fmt: skip


def home_root(environ: Mapping[str, str], repository: Path) -> Path:
    """Say where state lives: ``HELIOSTAT_HOME``, else ``.heliostat`` in the clone."""
    return Path(environ.get("HELIOSTAT_HOME") or repository / ".heliostat").absolute()
