"""What a process and its machine use, read from Linux: MLflow's system metrics."""

from __future__ import annotations

import os
from pathlib import Path

_STATUS, _MEMORY = Path("/proc/self/statm"), Path("/proc/meminfo")


class Usage:
    """Use since the last question."""

    def __init__(self, now_s: float, cpu_s: float) -> None:
        """Begin at a monotonic time and this process's CPU time."""
        self._now_s, self._cpu_s = now_s, cpu_s

    def since_last(self, now_s: float, cpu_s: float) -> dict[str, float]:
        """Names as MLflow's own, so that its page of system metrics shows them.

        CPU is this process's, 100 for one core; memory is this process's and the machine's.
        """
        passed_s = max(now_s - self._now_s, 1e-9)
        used = {
            "system/process_cpu_percent": 100 * (cpu_s - self._cpu_s) / passed_s,
            "system/load_average": os.getloadavg()[0],
        }
        self._now_s, self._cpu_s = now_s, cpu_s
        if _STATUS.exists():
            pages = int(_STATUS.read_text().split()[1])
            used["system/process_memory_megabytes"] = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
            kilobytes = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines())
            total = _number(kilobytes["MemTotal"])
            free = _number(kilobytes["MemAvailable"])
            used["system/system_memory_usage_percentage"] = 100 * (1 - free / total)
        return used


def _number(text: str) -> float:
    return float(text.split(maxsplit=1)[0])
