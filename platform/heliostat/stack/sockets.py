"""TCP sockets that listen on this machine, and the processes that hold them (Linux)."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from heliostat.stack import processes

_LOCAL, _REMOTE = 1, 2
_ESTABLISHED = "01"
_LISTEN = "0A"


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """One end of a TCP socket."""

    address: str
    port: int
    pid: int | None
    """The process that holds it; None when it belongs to somebody else."""

    @property
    def is_loopback(self) -> bool:
        """Say whether only this machine can connect."""
        address = ipaddress.ip_address(self.address)
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback


def listening(pids: Collection[int] | None = None) -> list[Endpoint]:
    """List listening TCP sockets, sorted by port.

    Args:
        pids: Only sockets of these processes; all of the machine by default.
    """
    holders = _holders(pids)
    found = [
        Endpoint(address=address, port=port, pid=holders.get(inode))
        for address, port, inode in _rows(_LISTEN, _LOCAL)
        if pids is None or inode in holders
    ]
    return sorted(found, key=lambda item: (item.port, item.address))


def reaches_out(pids: Collection[int]) -> list[Endpoint]:
    """List the far ends of these processes' connections to other machines, at this moment."""
    holders = _holders(pids)
    ends = [
        Endpoint(address=address, port=port, pid=holders[inode])
        for address, port, inode in _rows(_ESTABLISHED, _REMOTE)
        if inode in holders
    ]
    return [end for end in ends if not end.is_loopback]


def holder_of(port: int) -> str | None:
    """Name the process that listens on a port as ``command (pid 12)``, or None if nobody does."""
    for item in listening():
        if item.port == port:
            if item.pid is None:
                return "a process of another user"
            return f"{processes.command_line(item.pid)[:80] or 'a process'} (pid {item.pid})"
    return None


def is_free(port: int) -> bool:
    """Say whether a server could bind the port on 127.0.0.1 now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _rows(state: str, end: int) -> list[tuple[str, int, str]]:
    rows = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == state:
                    address, port = fields[end].split(":")
                    rows.append((_decode(address), int(port, 16), fields[9]))
    return rows


def _decode(text: str) -> str:
    """Read the kernel's hexadecimal address: 32-bit words in the machine's byte order.

    >>> _decode("0100007F")
    '127.0.0.1'
    """
    words = bytes.fromhex(text)
    raw = b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4))
    return str(ipaddress.ip_address(raw))


def _holders(pids: Collection[int] | None) -> dict[str, int]:
    holders: dict[str, int] = {}
    for pid in processes.pids() if pids is None else pids:
        with contextlib.suppress(OSError):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    target = str(entry.readlink())
                    if target.startswith("socket:["):
                        holders.setdefault(target[8:-1], pid)
    return holders
