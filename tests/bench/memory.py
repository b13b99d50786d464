"""Memory of a group of processes while something runs: summed PSS and /dev/shm, sampled.

PSS counts a page that n processes share as 1/n in each, so the sum counts it once. Pages of
/dev/shm that a process maps are in its PSS too: the plain sum is an upper bound, and
`Sample.distinct_bytes` counts them once. Only the standard library, since it also runs before
anything is installed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
SHARED = Path("/dev/shm")


@dataclass(frozen=True)
class Sample:
    """One look at all processes."""

    at_s: float
    num_processes: int
    pss_bytes: int
    shared_pss_bytes: int
    """The part of `pss_bytes` that is shared memory."""
    shm_bytes: int

    @property
    def sum_bytes(self) -> int:
        """Summed PSS plus /dev/shm: what the limit is about; an upper bound."""
        return self.pss_bytes + self.shm_bytes

    @property
    def distinct_bytes(self) -> int:
        """The same with mapped shared memory counted once."""
        return self.pss_bytes - min(self.shared_pss_bytes, self.shm_bytes) + self.shm_bytes


def pss_of(pid: int) -> tuple[int, int]:
    """PSS of a process and the part of it that is shared memory, in bytes; 0 if it is gone."""
    total = shared = 0
    try:
        for line in (PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total = int(line.split()[1]) * 1024
            elif line.startswith("Pss_Shmem:"):
                shared = int(line.split()[1]) * 1024
    except (OSError, ValueError):
        return 0, 0
    return total, shared


def used_shm() -> int:
    """Bytes that files in /dev/shm really take, of all users of the machine."""
    total = 0
    for path in SHARED.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except OSError:
            continue
    return total


def parents() -> dict[int, int]:
    """Parent of each running process."""
    found = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            found[int(entry.name)] = int(fields[1])
    return found


def tree_of(roots: Iterable[int]) -> set[int]:
    """These processes and all that descend from them by parent links."""
    above = parents()
    found = {pid for pid in roots if pid in above}
    grown = True
    while grown:
        more = {pid for pid, parent in above.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return found


def marked(words: Iterable[str]) -> set[int]:
    """Processes whose environment, command line or folder holds one of these words.

    Finds what a command started also after it was handed over to the init process.
    """
    needles = [word.encode() for word in words]
    found = set()
    for entry in PROC.iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            seen = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            seen += os.fsencode((entry / "cwd").readlink())
        except OSError:
            continue
        if any(needle in seen for needle in needles):
            found.add(int(entry.name))
    return found


class Sampler:
    """Watches in a thread of its own; used with `with`, read `peak` and `samples` afterwards."""

    def __init__(self, members: Callable[[], set[int]], every_s: float = 2.0) -> None:
        self.samples: list[Sample] = []
        self._members = members
        self._every_s = every_s
        self._shm_before = used_shm()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._started = time.monotonic()

    def look(self) -> Sample:
        """Take one sample now."""
        pids = self._members()
        pss = [pss_of(pid) for pid in pids]
        sample = Sample(
            at_s=time.monotonic() - self._started,
            num_processes=len(pids),
            pss_bytes=sum(total for total, _ in pss),
            shared_pss_bytes=sum(shared for _, shared in pss),
            shm_bytes=max(used_shm() - self._shm_before, 0),
        )
        self.samples.append(sample)
        return sample

    def _watch(self) -> None:
        while not self._stop.wait(self._every_s):
            self.look()

    @property
    def peak(self) -> Sample:
        """The sample with the highest sum; takes one if there is none yet."""
        return max(self.samples or [self.look()], key=lambda sample: sample.sum_bytes)

    def __enter__(self) -> Sampler:  # noqa: PYI034 - typing.Self needs Python 3.11
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
