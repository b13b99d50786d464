"""What can be done to a serving chain under load; each function does it once or more, and waits.

They return how many faults that was. `tests.bench.faults` runs them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from heliostat.serving.ingress import LONGEST_DEADLINE_S
from tests.bench.fault_runs import Faults
from tests.local.chain import in_thread
from tests.unit.serving import bad_input

Fault = Callable[[Faults], Awaitable[int]]

LARGE = bad_input.GOOD[:-1] + b" " * (256 << 10) + bad_input.GOOD[-1:]
"""Beyond the buffer of the ingress, so that it cannot be sent again to another replica."""


async def kill_candidate(faults: Faults) -> int:
    """SIGKILL the candidate's replica every 10 s."""
    for pid in await in_thread(faults.chain.variants):
        os.kill(pid, signal.SIGKILL)
    await faults.pause(10.0)
    return 1


async def stop_candidate(faults: Faults) -> int:
    """SIGSTOP the candidate's replica for 6 s of every 14."""
    pids = await in_thread(faults.chain.variants)
    began = time.perf_counter()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    await faults.pause(6.0)
    faults.notes.setdefault("ejected_after_s", []).append(faults.last_slow_s(began, 6.0))
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
    """SIGSTOP one of two gateways for 8 s; each fifth time until the ingress gives up on it."""
    chain = faults.chain
    faults.notes["stops"] = number = faults.notes.get("stops", 0) + 1
    pid = (await in_thread(chain.gateways))[0]
    os.kill(pid, signal.SIGSTOP)
    await faults.pause(8.0 if number % 5 else LONGEST_DEADLINE_S + 4.0)
    # Serve may have ended it meanwhile, as one that does not answer its checks.
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    await faults.until(lambda: len(chain.gateways()) >= 2 and chain.num_routed() >= 2)
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
    await in_thread(faults.chain.put, gateways=faults.num_gateways)
    await faults.pause(5.0)
    return 1


async def kill_both(faults: Faults) -> int:
    """SIGKILL the candidate and one of two gateways at the same moment."""
    chain = faults.chain
    variants, gateways = await in_thread(chain.variants), await in_thread(chain.gateways)
    for pid in [*variants, gateways[0]]:
        os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(1.0)
    await faults.until(lambda: len(chain.gateways()) >= 2 and chain.num_routed() >= 2)
    await faults.pause(6.0)
    return 1


async def kill_haproxy(faults: Faults) -> int:
    """SIGKILL the ingress itself; note for how long nobody listened."""
    return await _kill_ingress(faults, lambda: _haproxies(faults))


async def kill_haproxy_manager(faults: Faults) -> int:
    """SIGKILL the actor that starts the ingress, and with it the ingress."""
    return await _kill_ingress(
        faults, lambda: [*faults.chain.pids("ray::HAProxyManager"), *_haproxies(faults)]
    )


async def _kill_ingress(faults: Faults, find: Callable[[], list[int]]) -> int:
    for pid in await in_thread(find):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(0.05)
    gap_s = await faults.until(lambda: _listens(faults.chain.port), most_s=90.0)
    faults.notes.setdefault("no_listener_s", []).append(round(gap_s + 0.05, 2))
    await faults.until(lambda: faults.chain.num_routed() >= 2)
    await faults.pause(5.0)
    return 1


def _haproxies(faults: Faults) -> list[int]:
    return [
        pid for pid in faults.chain.pids()
        if (words := _words(pid)) and "haproxy" in words[0] and "-f" in words
    ]  # fmt: skip


def _words(pid: int) -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return []


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False


def body_of(name: str) -> bytes:
    """What is sent during a fault."""
    return LARGE if name == "kill_gateway_large" else bad_input.GOOD


ALL: dict[str, Fault] = {
    "kill_candidate": kill_candidate,
    "stop_candidate": stop_candidate,
    "kill_controller": kill_controller,
    "swap": swap,
    "put_again": put_again,
    "kill_gateway": kill_gateway,
    "stop_gateway": stop_gateway,
    "scale": scale,
    "kill_gateway_large": kill_gateway,
    "kill_both": kill_both,
    "kill_haproxy": kill_haproxy,
    "kill_haproxy_manager": kill_haproxy_manager,
}

ALONE = ("swap",)
"""Faults under which one version has all the traffic."""

REPORTED = ("kill_gateway_large", "kill_both", "kill_haproxy", "kill_haproxy_manager")
"""Of them, those that may cost requests: they are counted, and nothing is promised."""
