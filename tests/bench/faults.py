"""Kills, stops, swaps and scales the serving chain under open-loop load: `make prove-serving`.

Each fault has its own run and its own ledger, kept by the client: sent, answered, failed, lost
and late are counted there, never from the platform's metrics. ``--requests`` per fault, at
``--rate``; ``--only`` names some. Writes ``tests/bench/results/serving.json``, section ``faults``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.bench.serving import RESULT, keep
from tests.local.chain import Chain, in_thread
from tests.local.load import OpenLoop
from tests.unit.serving import bad_input

Fault = Callable[["Faults"], Awaitable[int]]


class Faults:
    """One chain, and what can be done to it while it is under load."""

    def __init__(self, chain: Chain, *, requests: int, rate: float) -> None:
        self.chain = chain
        self.requests = requests
        self.rate = rate
        self.stable = chain.stable("1")
        self.candidate = chain.candidate("2")
        self.sending: asyncio.Task[Any] | None = None
        self.notes: dict[str, Any] = {}

    def calm(self, share: float = 0.5) -> None:
        """Go back to version 1 stable and 2 on trial, all of them answering."""
        self.chain.publish(self.stable, self.candidate, share=share, rollout_id="faults")
        self.chain.wait(lambda: len(self.chain.variants()) >= 1)
        self.chain.wait(lambda: self.chain.ask("/variants/shapes/2/ready")[0] == 200)
        self.chain.wait(self.chain.is_ready)

    async def run(self, fault: Fault) -> dict[str, Any]:
        """Load the chain while the fault is repeated; return the ledger's summary."""
        self.notes = {}
        load = OpenLoop(self.chain.url, bad_input.GOOD, rate=self.rate)
        self.sending = asyncio.create_task(load.run(total=self.requests))
        await asyncio.sleep(2.0)
        number = 0
        while not self.sending.done():
            number += await fault(self)
        ledger = await self.sending
        return {
            **ledger.summary(),
            "faults": number,
            "misassigned": self.chain.misassigned(ledger.entries),
            "rate_per_s": self.rate,
            **self.notes,
        }

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


async def kill_candidate(faults: Faults) -> int:
    """SIGKILL the candidate's replica every 10 s."""
    for pid in await in_thread(faults.chain.variants):
        os.kill(pid, signal.SIGKILL)
    await faults.pause(10.0)
    return 1


async def stop_candidate(faults: Faults) -> int:
    """SIGSTOP the candidate's replica for 6 s of every 14."""
    pids = await in_thread(faults.chain.variants)
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    await faults.pause(6.0)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    await faults.pause(8.0)
    return 1


async def kill_gateway(faults: Faults) -> int:
    """SIGKILL one of two gateways; the next only when the ingress sends to both again."""
    chain = faults.chain
    pids = await in_thread(chain.gateways)
    os.kill(pids[0], signal.SIGKILL)
    await asyncio.sleep(1.0)
    waited = await faults.until(lambda: len(chain.gateways()) >= 2 and chain.num_routed() >= 2)
    faults.notes.setdefault("back_after_s", []).append(round(waited + 1.0, 1))
    await faults.pause(3.0)
    return 1


async def stop_gateway(faults: Faults) -> int:
    """SIGSTOP one of two gateways for 8 s."""
    pids = await in_thread(faults.chain.gateways)
    os.kill(pids[0], signal.SIGSTOP)
    await faults.pause(8.0)
    os.kill(pids[0], signal.SIGCONT)
    await faults.until(lambda: faults.chain.num_routed() >= 2)
    await faults.pause(4.0)
    return 1


async def kill_controller(faults: Faults) -> int:
    """SIGKILL Serve's controller every 10 s."""
    for pid in await in_thread(faults.chain.pids, "ray::ServeController"):
        os.kill(pid, signal.SIGKILL)
    await faults.pause(10.0)
    return 1


async def swap(faults: Faults) -> int:
    """Make the other version stable, in place."""
    chain = faults.chain
    faults.notes["swaps"] = number = faults.notes.get("swaps", 0) + 1
    variant = await in_thread(chain.stable, str(3 + number % 2))
    took = await in_thread(chain.publish, variant)
    faults.notes.setdefault("obeyed_after_s", []).append(round(took, 3))
    await faults.pause(1.0)
    return 1


async def scale(faults: Faults) -> int:
    """Scale the gateways 2 to 4 to 2."""
    chain = faults.chain
    for count in (4, 2):
        await in_thread(chain.put, gateways=count)
        await faults.until(lambda count=count: chain.num_routed() == count)
        await faults.pause(2.0)
    return 2


async def put_again(faults: Faults) -> int:
    """PUT the whole Serve configuration, which does not name the candidate's app."""
    await in_thread(faults.chain.put, gateways=2)
    await faults.pause(5.0)
    return 1


ALL: dict[str, Fault] = {
    "kill_candidate": kill_candidate,
    "stop_candidate": stop_candidate,
    "kill_controller": kill_controller,
    "swap": swap,
    "put_again": put_again,
    "kill_gateway": kill_gateway,
    "stop_gateway": stop_gateway,
    "scale": scale,
}


def main() -> None:
    """Run them and keep the ledgers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("ports")
    parser.add_argument("--requests", type=int, default=30_000)
    parser.add_argument("--rate", type=float, default=150.0)
    parser.add_argument("--only", default=",".join(ALL))
    asked = parser.parse_args()
    ports = [int(port) for port in asked.ports.split(",")]
    found: dict[str, Any] = {}
    with Chain(asked.folder, ports) as chain:
        chain.put(gateways=2)
        chain.wait(lambda: chain.num_routed() == 2)
        stable = chain.stable("1")
        chain.publish(stable)
        chain.wait(chain.is_ready)
        faults = Faults(chain, requests=asked.requests, rate=asked.rate)
        for name in asked.only.split(","):
            faults.calm()
            chain.wait(lambda: chain.num_routed() == 2)
            found[name] = asyncio.run(faults.run(ALL[name]))
            found[name]["load_average"] = round(os.getloadavg()[0], 1)
            print(name, {k: v for k, v in found[name].items() if k != "by_version"}, flush=True)
    known = {}
    if RESULT.exists():
        import json

        known = json.loads(RESULT.read_text()).get("faults", {}).get("runs", {})
    keep("faults", {"runs": {**known, **found}, "requests_each": asked.requests})


if __name__ == "__main__":
    main()
