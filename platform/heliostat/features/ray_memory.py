"""How much memory a Ray that is started for one retrieval takes for pieces on their way."""

from __future__ import annotations

import re


def object_store_bytes(wanted_gib: float, meminfo: str) -> int:
    r"""What is wanted, but never more than half of what is free.

    Ray refuses to start where little is left beside its object store. A container's own limit is
    not looked at.

    Args:
        wanted_gib: Most that it may be.
        meminfo: What Linux says in ``/proc/meminfo``; empty elsewhere, and then all is given.

    >>> object_store_bytes(3.0, "MemFree: 9 kB\nMemAvailable: 2097152 kB\n") / 2**30
    1.0
    >>> object_store_bytes(3.0, "") / 2**30
    3.0
    """
    wanted = int(wanted_gib * 2**30)
    free = re.search(r"^MemAvailable: *(\d+) kB$", meminfo, re.MULTILINE)
    return wanted if free is None else min(wanted, int(free[1]) * 1024 // 2)
