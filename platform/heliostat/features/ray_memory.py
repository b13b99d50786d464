"""How much memory a Ray that is started for one retrieval takes for pieces on their way."""

from __future__ import annotations

import re


def object_store_bytes(wanted_gib: float, meminfo: str) -> int:
    r"""What is wanted, but never more than half of what is free.

    Ray refuses to start where little is left beside its object store.

    Args:
        wanted_gib: Most that it may be.
        meminfo: What Linux says in ``/proc/meminfo``.

    >>> object_store_bytes(3.0, "MemFree: 9 kB\nMemAvailable: 2097152 kB\n") / 2**30
    1.0
    """
    (free_kb,) = re.findall(r"^MemAvailable: *(\d+) kB$", meminfo, re.MULTILINE)
    return min(int(wanted_gib * 2**30), int(free_kb) * 1024 // 2)
