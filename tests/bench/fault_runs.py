"""A serving chain under open-loop load with a ledger, while something is done to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from tests.local.chain import Chain, in_thread
from tests.local.load import Ledger, OpenLoop
from tests.unit.serving import bad_input


class Faults:
    """One chain, and what can be done to it while it is under load."""

    def __init__(
        self, chain: Chain, *, requests: int, faults: int, rate: float, most_s: float
    ) -> None:
        self.chain = chain
        self.requests = requests
        self.faults = faults
        self.rate = rate
        self.most_s = most_s
        self.num_runs = 0
        self.num_gateways = len(chain.gateways())
        self.ledger = Ledger()
        self.stable = chain.stable("1")
        self.candidate = chain.candidate("2")
        self.sending: asyncio.Task[Any] | None = None
        self.notes: dict[str, Any] = {}

    def calm(self, *, alone: bool = False) -> None:
        """Go back to version 1 stable and 2 on trial with half of the traffic, or to 1 alone."""
        if alone:
            self.chain.publish(self.stable)
            self.chain.wait(self.chain.is_ready)
            return
        self.chain.publish(self.stable, self.candidate, share=0.5, rollout_id="faults")
        self.chain.wait(lambda: len(self.chain.variants()) >= 1)
        self.chain.wait(lambda: self.chain.ask("/variants/shapes/2/ready")[0] == 200)
        self.chain.wait(self.chain.is_ready)

    async def run(self, fault: Callable[[Faults], Awaitable[int]], body: bytes) -> dict[str, Any]:
        """Load the chain while the fault is repeated; return the ledger's summary.

        It ends when enough was sent and the fault happened often enough, whichever is later.
        """
        self.notes = {}
        self.num_runs += 1
        tag = f"run-{self.num_runs}-"
        load = OpenLoop(self.chain.url, body, rate=self.rate, tag=tag)
        self.ledger = load.ledger
        self.sending = asyncio.create_task(load.run())
        await asyncio.sleep(2.0)
        number = 0
        began = time.perf_counter()
        while time.perf_counter() - began < self.most_s and (
            len(load.ledger.entries) < self.requests or number < self.faults
        ):
            number += await fault(self)
        load.stop()
        ledger = await self.sending
        return {
            **ledger.summary(),
            "faults": number,
            "misassigned": self.chain.misassigned(ledger.entries),
            "rate_per_s": self.rate,
            **await self._exposed(tag),
            **self.notes,
        }

    async def _exposed(self, tag: str) -> dict[str, int]:
        """Answers that gateways wrote down; one that was made twice was retried by the ingress."""
        await asyncio.sleep(1.5)
        ids = await in_thread(self.chain.exposed_ids, tag)
        return {"exposed": len(ids), "retried_inside": len(ids) - len(set(ids))}

    async def pause(self, seconds: float) -> None:
        """Wait, or until everything was sent."""
        assert self.sending is not None
        await asyncio.wait([self.sending], timeout=seconds)

    async def until(self, holds: Callable[[], bool], *, most_s: float = 60.0) -> float:
        """Wait until something holds, or everything was sent."""
        assert self.sending is not None
        began = time.perf_counter()
        while not self.sending.done() and time.perf_counter() - began < most_s:
            if await in_thread(holds):
                break
            await asyncio.sleep(0.1)
        return time.perf_counter() - began

    def last_slow_s(self, began: float, seconds: float, *, slow_s: float = 0.75) -> float:
        """How long after a fault a request was still sent that had to wait for long.

        A trial of a variant that is not asked any more waits half a second at most.
        """
        waits = [
            entry.due - began for entry in self.ledger.entries
            if began <= entry.due <= began + seconds and entry.took_s > slow_s
        ]  # fmt: skip
        return round(max(waits, default=0.0), 3)


async def capacity(
    chain: Chain, *, seconds: float = 4.0, start: float = 50.0, body: bytes = bad_input.GOOD
) -> float:
    """The highest rate that client and chain keep up with on this machine, in steps of a quarter.

    It counts as kept up when every request is answered with 200, and 99 of 100 within 250 ms of
    the moment at which they were due; a rate gets a second try, since a machine may be busy once.
    """
    best = start
    for rate in (start * 1.25**step for step in range(30)):
        for _ in range(2):
            load = OpenLoop(chain.url, body, rate=rate)
            found = (await load.run(total=int(rate * seconds))).summary()
            if not found["failed"] and found["p99_ms"] <= 250:
                best = rate
                break
        else:
            break
    return best
