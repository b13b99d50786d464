"""Loopback ports for servers that a test starts, which nothing else will take meanwhile."""

from __future__ import annotations

import contextlib
import random
import socket

RANGE = range(20_000, 30_000)
"""Below the kernel's range for outgoing connections (32768 and up on Linux), of which one may
take any port that is free for the moment; and clear of Ray's workers (10002 to 19999) and of
Serve's replicas (from 30000)."""


def free_ports(count: int) -> list[int]:
    """Return so many different ports of 127.0.0.1 that nobody listens on.

    They are chosen at random, so that tests which run side by side hardly ever meet.

    Raises:
        OSError: The range has not so many free ports.
    """
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for port in random.SystemRandom().sample(RANGE, len(RANGE)):
            if len(found) == count:
                break
            probe = held.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
    if len(found) < count:
        raise OSError(
            f"free ports = {len(found)}: must be {count} between {RANGE[0]} and {RANGE[-1]}"
        )
    return found
