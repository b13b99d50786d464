"""An open-loop client with a ledger: fixed rate, intended send times, one attempt per request."""

from __future__ import annotations

import asyncio
import collections
import time
from dataclasses import dataclass, field
from typing import Any

LATE_S = 5.0


@dataclass(slots=True)
class Entry:
    """What became of one request, by the client's own account."""

    number: int
    due: float
    status: int | None = None
    problem: str = ""
    took_s: float = 0.0
    version: str = ""
    epoch: int = -1
    is_fallback: bool = False
    phase: str = ""


@dataclass
class Ledger:
    """Every request that was due, whatever became of it."""

    entries: list[Entry] = field(default_factory=list)

    def summary(self, *, phase: str | None = None) -> dict[str, Any]:
        """Counts by outcome, and latencies from the intended send time."""
        found = [entry for entry in self.entries if phase is None or entry.phase == phase]
        times = sorted(entry.took_s * 1000 for entry in found if entry.status == 200)
        failed = [entry for entry in found if entry.status != 200]
        return {
            "sent": len(found),
            "answered": len(times),
            "failed": len(failed),
            "lost": sum(entry.status is None for entry in failed),
            "late": sum(entry.took_s > LATE_S for entry in found),
            "fallbacks": sum(entry.is_fallback for entry in found),
            "by_status": dict(collections.Counter(str(entry.status) for entry in found)),
            "by_version": dict(collections.Counter(e.version for e in found if e.version)),
            "problems": sorted({entry.problem for entry in failed})[:5],
            "failed_numbers": [entry.number for entry in failed][:20],
            **{
                f"p{str(q).replace('.', '_')}_ms": round(times[int(len(times) * q / 100)], 2)
                for q in (50, 99, 99.9)
                if times
            },
            "max_ms": round(times[-1], 2) if times else None,
        }


class OpenLoop:
    """Sends at a fixed rate until told to stop; never retries, never waits for an answer."""

    def __init__(
        self, url: str, body: bytes, *, rate: float, timeout_s: float = 40.0, tag: str = "r"
    ) -> None:
        """Prepare; ids of requests are the tag and a number.

        The default for `timeout_s` is longer than the ingress waits for a silent replica.
        """
        self._tag = tag
        self._url = url
        self._body = body
        self._rate = rate
        self._timeout_s = timeout_s
        self.ledger = Ledger()
        self.phase = ""
        self._stopped = asyncio.Event()

    async def run(self, *, total: int | None = None) -> Ledger:
        """Send `total` requests, or until `stop`; then wait for what is under way."""
        import aiohttp

        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        tasks: set[asyncio.Task[None]] = set()
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            began = time.perf_counter()
            number = 0
            while not self._stopped.is_set() and (total is None or number < total):
                due = began + number / self._rate
                now = time.perf_counter()
                if due > now:
                    await asyncio.sleep(due - now)
                entry = Entry(number=number, due=due, phase=self.phase)
                self.ledger.entries.append(entry)
                task = asyncio.create_task(self._one(session, entry))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                number += 1
            await asyncio.gather(*tasks)
        return self.ledger

    def stop(self) -> None:
        """Send no more."""
        self._stopped.set()

    async def _one(self, session: Any, entry: Entry) -> None:
        headers = {
            "content-type": "application/json",
            "x-heliostat-unit": f"u{entry.number}",
            "x-heliostat-request-id": f"{self._tag}{entry.number}",
        }
        try:
            async with session.post(self._url, data=self._body, headers=headers) as response:
                text = await response.read()
                entry.status = response.status
                if response.status == 200:
                    entry.version = response.headers["x-heliostat-version"]
                    entry.epoch = int(response.headers["x-heliostat-epoch"])
                    entry.is_fallback = response.headers["x-heliostat-fallback"] == "1"
                else:
                    entry.problem = f"{response.status} {text[:120]!r}"
        except Exception as error:  # noqa: BLE001 - every kind of failure is counted
            entry.problem = f"{type(error).__name__}: {error}"[:160]
        entry.took_s = time.perf_counter() - entry.due
