"""Processes of one platform: start them apart, find every one of them, end them.

Linux only: it reads ``/proc``. A process belongs to the platform when its environment
carries the platform's mark, when it is in a session that the platform started, or when its
parent belongs. The mark alone is not enough (some of Ray's processes write their title over
it), and neither is the session (jobs and their shells have their own).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MARK = "HELIOSTAT_STACK_OF"
"""Environment variable of every process of a platform; its value is the state folder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """One process for good: a number that is used again later does not match."""

    pid: int
    start_ticks: int

    def is_alive(self) -> bool:
        """Say whether exactly this process still runs (a zombie does not)."""
        stat = _stat(self.pid)
        return stat is not None and stat.start_ticks == self.start_ticks


@dataclass(frozen=True, kw_only=True, slots=True)
class _Stat:
    parent: int
    session: int
    start_ticks: int


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *numbers = text.rsplit(")", 1)[1].split()
    if state in "ZX":
        return None
    return _Stat(parent=int(numbers[0]), session=int(numbers[2]), start_ticks=int(numbers[18]))


def identify(pid: int) -> Identity | None:
    """Give the identity of a running process, or None when there is none."""
    stat = _stat(pid)
    return Identity(pid=pid, start_ticks=stat.start_ticks) if stat else None


def command_line(pid: int) -> str:
    """Say what a process runs, as text; empty when it is gone."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()


def spawn(
    command: Sequence[str], *, environ: Mapping[str, str], log: Path, folder: Path
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, with its output in `log`."""
    with log.open("ab") as stream:
        return subprocess.Popen(
            command,
            env=dict(environ),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def members(root: Path, leaders: Collection[Identity]) -> dict[int, str]:
    """Find every running process of the platform with state folder `root`.

    Args:
        root: The absolute state folder.
        leaders: Recorded processes, each the leader of a session.

    Returns:
        Command line by process number; never this process or one of its ancestors.
    """
    stats = {pid: stat for pid in pids() if (stat := _stat(pid))}
    mark = f"{MARK}={root}".encode()
    sessions = {
        leader.pid
        for leader in leaders
        if leader.pid not in stats or stats[leader.pid].start_ticks == leader.start_ticks
    }
    ours = {
        pid
        for pid, stat in stats.items()
        if (stat.session in sessions and _is_mine(pid)) or _has_mark(pid, mark)
    }
    grown = True
    while grown:
        children = {pid for pid, stat in stats.items() if stat.parent in ours} - ours
        grown = bool(children)
        ours |= children
    line = os.getpid()
    while line in stats:
        ours.discard(line)
        line = stats[line].parent
    return {pid: command_line(pid) for pid in sorted(ours)}


def stop(root: Path, leaders: Collection[Identity], *, grace_s: float = 8.0) -> list[str]:
    """End every process of the platform: ask the leaders first, then kill what is left.

    Returns:
        Command lines of processes that could not be ended; empty when all are gone.
    """
    deadline = time.monotonic() + grace_s
    for leader in leaders:
        if leader.is_alive():
            _send(leader.pid, signal.SIGTERM)
    while any(leader.is_alive() for leader in leaders) and time.monotonic() < deadline:
        time.sleep(0.05)
        _reap(leaders)
    left = members(root, leaders)
    deadline = time.monotonic() + 5.0
    while left and time.monotonic() < deadline:
        for pid in left:
            _send(pid, signal.SIGKILL)
        time.sleep(0.05)
        _reap(leaders)
        left = members(root, leaders)
    return list(left.values())


def _reap(leaders: Collection[Identity]) -> None:
    """Collect leaders that this very process started, so that none stays a zombie."""
    for leader in leaders:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(leader.pid, os.WNOHANG)


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def pids() -> list[int]:
    """List every process of the machine."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _is_mine(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}").stat().st_uid == os.getuid()
    except OSError:
        return False


def _has_mark(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
