"""Puts the controller's parts together inside a Serve replica."""

from __future__ import annotations

import dataclasses
import os
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heliostat import telemetry
from heliostat.access import seal as access_seal
from heliostat.access import signature
from heliostat.access.keys import KeyFile
from heliostat.config import require
from heliostat.control import hooks
from heliostat.control.api import ControlApp
from heliostat.control.checks import Checks
from heliostat.control.controller import Controller
from heliostat.control.loop import Loop
from heliostat.errors import ConfigError, nearest
from heliostat.store import address
from heliostat.store.events import EventLog
from heliostat.store.home import Home
from heliostat.store.leases import Leases
from heliostat.store.outcomes import Outcomes


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlSettings:
    """Settings of the control application."""

    home: str
    """Absolute path of the platform's state folder."""

    endpoint: str = "http://127.0.0.1:8000"
    """Base URL of the ingress, as reached from this machine."""

    tracking_uri: str = "http://127.0.0.1:5000"
    """MLflow's address."""

    variant_max_replicas: int | None = None
    """Up to so many processes for a version on trial, by its load; None for the one."""

    state_url: str = ""
    """SQLAlchemy URL of the state database; empty takes ``HELIOSTAT_STATE_URL`` of the replica's
    environment, else the SQLite file of the state folder."""

    def __post_init__(self) -> None:
        require(Path(self.home).is_absolute(), "control.home", self.home, "must be absolute")
        for name in ("endpoint", "tracking_uri"):
            require(bool(getattr(self, name)), f"control.{name}", "", "must not be empty")
        most = self.variant_max_replicas
        require(most is None or most > 0, "control.variant_max_replicas", most, "must be above 0")

    @staticmethod
    def from_args(args: Mapping[str, Any]) -> ControlSettings:
        """Build settings from the ``args`` of a Serve application.

        Raises:
            ConfigError: A key is unknown (with the nearest right one) or missing, or a
                value is of another type.
        """
        names = [field.name for field in dataclasses.fields(ControlSettings)]
        for key, value in args.items():
            require(key in names, "args", key, "is not a setting", breaks=nearest(key, names))
            if key == "variant_max_replicas":
                is_count = isinstance(value, int) and not isinstance(value, bool)
                require(is_count, f"args.{key}", value, "must be a whole number")
            else:
                require(isinstance(value, str), f"args.{key}", value, "must be text")
        if "home" not in args:
            raise ConfigError("args", sorted(args), "must have 'home'")
        return ControlSettings(**args)


def make(settings: ControlSettings) -> ControlApp:
    """Build the application of this process; its lifespan starts the controller's loop."""
    from heliostat.control import serve_plane

    telemetry.configure("control")
    home = Home(root=Path(settings.home))
    state = settings.state_url or address.state_url(os.environ) or home.state_db
    key = signature.load_or_create_key(home.keys / "hooks.key")
    hooks_file = home.root / "hooks.json"
    hooks.read(hooks_file)  # a file that cannot be meant is told about now, not at the first event
    log = EventLog(state)
    controller = Controller(
        log,
        Leases(state),
        serve_plane.ServePlane(
            home.root, settings.endpoint.rstrip("/"), settings.variant_max_replicas
        ),
        serve_plane.RegistryVersions(settings.tracking_uri, home),
        holder=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
        outcomes=Outcomes(state),
        checks=Checks(key, time.time),
        hindrance=lambda: hindrance(state, serve_plane.num_nodes()),
    )
    courier = hooks.Courier(log, lambda: hooks.read(hooks_file), key, time.time)
    seal = access_seal.load_or_create(home.keys / "gateway.key")
    return ControlApp(
        controller, Loop(controller, courier), seal, KeyFile(home.keys / "control", time.time)
    )


def hindrance(state: object, num_nodes: int) -> ConfigError | None:
    """Say why no rollout may begin: an SQLite file is safe for the processes of one machine only.

    Args:
        state: Path or URL of the state database.
        num_nodes: Ray nodes that are alive, on any of which the controller may start again.
    """
    if num_nodes <= 1 or not address.is_one_file(state):
        return None
    return ConfigError(
        "state_url", "", f"must be a PostgreSQL URL where Ray has {num_nodes} nodes",
        breaks="two controllers on two machines could write one SQLite file, and lose a verdict",
        next_step="Set HELIOSTAT_STATE_URL to postgresql+psycopg://user@host:5432/database",
    )  # fmt: skip


def application(args: dict[str, Any]) -> Any:
    """Build the Serve application; `serve_apps.control:build` calls it.

    Raises:
        ConfigError: An argument is unknown, missing or of another type.
    """
    from ray import serve

    settings = ControlSettings.from_args(args)

    def start_control() -> Any:
        return make(settings)

    # One replica: the lease would keep a second one idle. It shares the machine with the
    # work it controls, so Ray must not refuse to place it because all CPUs are reserved.
    deployment = serve.deployment(
        name="control",
        num_replicas=1,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=100,
        health_check_period_s=2.0,
        health_check_timeout_s=10.0,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=10.0,
        logging_config={"enable_access_log": False},
    )
    return deployment(serve.ingress(start_control)()).bind()
