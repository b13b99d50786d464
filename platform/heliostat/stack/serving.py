"""Puts Serve applications from a config file on the platform that is up: `heliostat serve`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heliostat.errors import Unavailable
from heliostat.stack import auth, ray_api, record, serve_config
from heliostat.stack.record import StackRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployed:
    """What a config did to the applications."""

    applications: dict[str, str]
    """Serve's status of each that is declared."""

    ended: tuple[str, ...]
    """Declared before, and no more."""


def prepared(home_root: Path, path: Path, repository: Path) -> tuple[dict[str, Any], StackRecord]:
    """Read the config for the platform that is up, and what is known of that.

    Raises:
        ConfigError: See `serve_config.read`.
        Unavailable: The platform is down.
    """
    known = record.read(home_root.absolute())
    if known is None:
        raise Unavailable("platform", "is down", next_step="Start it with: heliostat up")
    config = serve_config.read(path, repository, known.clients, known.settings.ports.serve)
    return config, known


def deploy(
    home_root: Path,
    path: Path,
    repository: Path,
    *,
    environ_now: Mapping[str, str],
    timeout_s: float,
) -> Deployed:
    """Make a config file the whole declared state of Serve and wait until all of it runs.

    What the controller has started itself goes on. Putting the same config again changes nothing.

    Raises:
        ConfigError: It cannot be meant, or Ray refuses it.
        Unavailable: The platform is down, an application failed, or the time is over.
    """
    config, known = prepared(home_root, path, repository)
    api = ray_api.RayApi(known.settings.dashboard_url, auth.token(known.auth, environ_now))
    before = set(api.declared())
    api.put_applications(config)
    names = [str(item["name"]) for item in config.get("applications", [])]
    ray_api.wait_for_applications(api, names, deadline=time.monotonic() + timeout_s)
    state = api.applications()
    return Deployed(
        applications={name: state[name] for name in names},
        ended=tuple(sorted(before - set(names))),
    )
