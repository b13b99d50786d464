"""Start, stop and look at the local platform: a Ray head, MLflow, and the Serve applications."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heliostat.errors import ConfigError, HeliostatError, Interrupted, Unavailable
from heliostat.stack import (
    auth,
    environ,
    ingress,
    parts,
    processes,
    ray_api,
    record,
    serve_config,
    sockets,
    tempdir,
)
from heliostat.stack.record import StackRecord
from heliostat.stack.settings import StackSettings
from heliostat.store.home import Home, open_home

Say = Callable[[str], None]
"""Where `up` and `down` tell what they do, a line at a time."""

_MLFLOW_READY = "/api/2.0/mlflow/experiments/search?max_results=1"
"""Asks MLflow's database too; the first such call makes its tables."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StackStatus:
    """What runs now."""

    state: str
    """``up``, ``down``, or ``broken`` when only some parts are left."""
    parts: Mapping[str, str]
    """By part: ``up``, ``dead`` or ``not answering``."""
    applications: Mapping[str, str]
    """Serve applications by name, with Serve's own status."""
    urls: Mapping[str, str]
    num_processes: int


def up(
    home_root: Path,
    repository: Path,
    settings: StackSettings,
    *,
    environ_now: Mapping[str, str],
    say: Say,
) -> StackStatus:
    """Start the platform and wait until it answers; does nothing when it is up already.

    What an earlier `up` left behind in a crash is ended first. When something fails, what
    was started is ended again and the logs stay.

    Raises:
        ConfigError: A port is taken, a setting cannot be met, a part refuses its config.
        Unavailable: A part did not come up in time, with the end of its log.
        Interrupted: Ctrl-C while starting.
    """
    home = open_home(home_root)
    home.logs.mkdir(exist_ok=True)
    with _alone(home):
        found = status(home.root, environ_now=environ_now)
        if found.state == "up":
            _say_already_up(home, settings, say)
            return found
        if found.num_processes:
            say(f"ending {found.num_processes} processes that an earlier start left behind")
            _end(home)
        _require_free_ports(settings)
        try:
            _start(home, repository, settings, environ_now, say)
        except BaseException as error:
            say("start failed; ending what was started")
            _end(home)
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted("start stopped; nothing runs") from None
            if isinstance(error, HeliostatError):
                raise
            raise Unavailable("platform", f"could not start: {error!r}") from error
    return status(home.root, environ_now=environ_now)


def down(home_root: Path, *, say: Say) -> None:
    """End every process of the platform and remove its run files; fine when nothing runs.

    Raises:
        Unavailable: A process could not be ended.
    """
    root = home_root.absolute()
    if not root.is_dir():
        say("nothing runs")
        return
    home = Home(root=root)
    with _alone(home):
        num_processes = len(processes.members(root, _leaders(root)))
        began = time.monotonic()
        _end(home)
        seconds = time.monotonic() - began
        say(
            f"ended {num_processes} processes ({seconds:.1f} s)"
            if num_processes
            else "nothing runs"
        )


def status(home_root: Path, *, environ_now: Mapping[str, str]) -> StackStatus:
    """Look at the platform; asks each part and changes nothing."""
    root = home_root.absolute()
    known = record.read(root)
    leaders = _leaders(root)
    num_processes = len(processes.members(root, leaders))
    if known is None or not num_processes:
        state = "broken" if num_processes else "down"
        return StackStatus(
            state=state, parts={}, applications={}, urls={}, num_processes=num_processes
        )
    settings = known.settings
    applications: dict[str, str] = {}
    health = {
        name: "up" if identity and identity.is_alive() else "dead"
        for name, identity in known.parts.items()
    }
    if health.get("ray") == "up":
        try:
            applications = _connect(known.auth, settings, environ_now).applications()
        except ray_api.LOST:
            health["ray"] = "not answering"
    if health.get("mlflow") == "up" and not ray_api.answers(settings.mlflow_url + _MLFLOW_READY):
        health["mlflow"] = "not answering"
    if health.get("ray") == "up":
        answered = ray_api.answers(settings.endpoint + "/-/healthz")
        health["endpoint"] = "up" if answered else "not answering"
    is_up = known.is_complete and bool(health) and set(health.values()) == {"up"}
    return StackStatus(
        state="up" if is_up else "broken",
        parts=health,
        applications=applications,
        urls={
            "endpoint": settings.endpoint,
            "dashboard": settings.dashboard_url,
            "mlflow": settings.mlflow_url,
            "rollouts": settings.endpoint + "/v1/rollouts",
        },
        num_processes=num_processes,
    )


def client_variables(home_root: Path) -> dict[str, str]:
    """Give the variables by which a client finds the platform that is up.

    Raises:
        Unavailable: Nothing was started.
    """
    known = record.read(home_root.absolute())
    if known is None:
        raise Unavailable("platform", "is down", next_step="Start it with: heliostat up")
    return dict(known.clients)


def _start(
    home: Home,
    repository: Path,
    settings: StackSettings,
    environ_now: Mapping[str, str],
    say: Say,
) -> None:
    began = time.monotonic()
    deadline = began + settings.start_deadline_s
    folder = tempdir.temp_dir(home.root)
    tempdir.remove(folder)
    tempdir.make(folder)
    for name in ("h", "t"):
        (folder / name).mkdir(mode=0o700)
    python = tempdir.python(folder)
    token = auth.resolve(environ_now, home.keys)
    clients = environ.for_clients(settings, home.root, token, environ_now)
    known = StackRecord(
        settings=settings,
        repository=str(repository),
        temp_dir=str(folder),
        auth=token,
        clients=clients,
    )
    common = environ.for_processes(
        clients,
        home=home.root,
        repository=repository,
        python=python,
        temp=folder / "t",
        environ=environ_now,
    )
    applications = serve_config.read(
        Path(settings.serve_config), repository, clients, settings.ports.serve
    )
    api = _connect(token, settings, environ_now)
    try:
        executable = ingress.write_executable(folder, ingress.find_haproxy())
    except FileNotFoundError as error:
        raise Unavailable("ingress", str(error), next_step="Run: make env") from error

    def start(name: str, command: list[str], variables: Mapping[str, str]) -> None:
        nonlocal known
        known = record.with_part(known, name, None)
        record.write(home.root, known)
        child = processes.spawn(
            command,
            environ={**common, **variables},
            log=_fresh_log(home.logs / f"{name}.log"),
            folder=folder,
        )
        known = record.with_part(known, name, processes.identify(child.pid))
        record.write(home.root, known)

    def wait(name: str, ready: Callable[[], bool], what: str) -> None:
        identity = known.parts[name]
        while not ready():
            dead = identity is None or not identity.is_alive()
            if dead or time.monotonic() > deadline:
                log = home.logs / f"{name}.log"
                problem = "ended" if dead else f"no answer in {settings.start_deadline_s:g} s"
                raise Unavailable(
                    what, f"{problem} while starting; {log} ends with:\n{ray_api.tail(log)}\n"
                )
            time.sleep(0.1)
        say(f"  {what:<8} ready after {time.monotonic() - began:4.1f} s")

    ray_environ = {
        **parts.ray_variables(settings),
        **ingress.variables(settings.ports, folder, executable),
    }
    start("ray", parts.ray_command(settings, folder, python), ray_environ)
    home.mlflow.mkdir(exist_ok=True)
    start("mlflow", parts.mlflow_command(settings), parts.mlflow_variables(settings, home.mlflow))
    wait("ray", api.is_up, "Ray")
    api.put_applications(applications)
    names = [str(item["name"]) for item in applications.get("applications", [])]
    wait("mlflow", lambda: ray_api.answers(settings.mlflow_url + _MLFLOW_READY), "MLflow")
    ray_api.wait_for_applications(api, names, deadline=deadline)
    wait("ray", lambda: ray_api.answers(settings.endpoint + "/-/healthz"), "Serve")
    record.write(home.root, dataclasses.replace(known, is_complete=True))


def _connect(
    token: Mapping[str, str], settings: StackSettings, environ_now: Mapping[str, str]
) -> ray_api.RayApi:
    return ray_api.RayApi(settings.dashboard_url, auth.token(token, environ_now))


def _end(home: Home) -> None:
    left = processes.stop(home.root, _leaders(home.root))
    if left:
        raise Unavailable("platform", f"could not end: {'; '.join(left)}")
    known = record.read(home.root)
    tempdir.remove(tempdir.temp_dir(home.root))
    if known and known.temp_dir != str(tempdir.temp_dir(home.root)):
        tempdir.remove(Path(known.temp_dir))
    record.remove(home.root)


def _leaders(root: Path) -> list[processes.Identity]:
    known = record.read(root)
    return known.leaders if known else []


def _say_already_up(home: Home, settings: StackSettings, say: Say) -> None:
    known = record.read(home.root)
    say("already up; nothing changed")
    if known and known.settings != settings:
        say("its settings differ from those asked for now; `heliostat down` first to change them")


def _require_free_ports(settings: StackSettings) -> None:
    ports: dict[str, int] = dataclasses.asdict(settings.ports)
    for name, port in ports.items():
        if sockets.is_free(port):
            continue
        holder = sockets.holder_of(port)
        raise ConfigError(
            f"ports.{name}", port, "must be free",
            breaks=f"{holder} listens there" if holder else "it is in use",
            next_step=f"End that process, or choose another port: heliostat up "
            f"--set ports.{name}={port + 1} (or HELIOSTAT_SET=ports.{name}={port + 1})",
        )  # fmt: skip


def _fresh_log(path: Path) -> Path:
    """Keep the log of the start before this one, so that a crash can be looked at."""
    if path.exists():
        path.replace(path.with_suffix(".log.1"))
    return path


@contextmanager
def _alone(home: Home) -> Iterator[None]:
    """Hold the platform's lock, so that two `up` or `down` at once take turns."""
    with (home.root / "stack.lock").open("w") as stream:
        os.fchmod(stream.fileno(), 0o600)
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def to_json(found: StackStatus) -> dict[str, Any]:
    """Give the status as plain JSON values."""
    return {
        "state": found.state,
        "parts": dict(found.parts),
        "applications": dict(found.applications),
        "urls": dict(found.urls),
        "num_processes": found.num_processes,
    }
