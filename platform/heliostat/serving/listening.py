"""Which addresses this machine really listens on, as the kernel tells it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_LISTEN = "0A"
_V6_LOOPBACK = "00000000000000000000000001000000"
_MAPPED_V4 = "0000000000000000FFFF0000"


def is_reachable(port: int, own_ports: range, proc: Path = Path("/proc")) -> bool | None:
    """Say whether another machine could connect; None while nothing listens yet.

    Args:
        port: Of the ingress, whichever process holds it.
        own_ports: Ports that count where this very process listens on them.
        proc: The kernel's files.
    """
    own = _own_sockets(proc)
    loopback = [
        _is_loopback(address)
        for address, number, inode in _listening(proc)
        if number == port or (number in own_ports and inode in own)
    ]
    return not all(loopback) if loopback else None


def _listening(proc: Path) -> Iterator[tuple[str, int, str]]:
    """Address in hexadecimal, port, and inode of each listening TCP socket."""
    for name in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if len(words) > 9 and words[3] == _LISTEN:
                address, _, port = words[1].rpartition(":")
                yield address, int(port, 16), words[9]


def _own_sockets(proc: Path) -> set[str]:
    found = set()
    for entry in (proc / "self" / "fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def _is_loopback(address: str) -> bool:
    # Each four bytes are written as one number of this machine, so 127.0.0.1 is 0100007F.
    is_v4 = len(address) == 8 or address.startswith(_MAPPED_V4)
    return address == _V6_LOOPBACK or (is_v4 and address.endswith("7F"))
