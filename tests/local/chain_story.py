"""Bad input, slow clients and a killed candidate against the whole chain; prints one JSON line.

Usage: ``python -m tests.local.chain_story FOLDER PORTS``
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.bench.fault_kinds import ALL
from tests.bench.fault_runs import Faults
from tests.local import raw_sockets
from tests.local.chain import MODEL, Chain, in_thread
from tests.local.load import OpenLoop
from tests.unit.serving import bad_input

RATE = 200.0
TOTAL = 3_000


def bad(chain: Chain) -> dict[str, Any]:
    """The whole corpus over raw sockets; which cases were answered wrongly."""
    wrong: dict[str, list[int]] = {}
    seen: set[int] = set()
    for case in [*bad_input.CASES, *bad_input.FINE]:
        found = raw_sockets.statuses(chain.port, bad_input.http(case))
        seen.update(found)
        allowed = case.statuses | ({0} if 413 in case.statuses else set())
        if len(found) != 1 or found[0] not in allowed:
            wrong[case.name] = found
    for raw in bad_input.RAW:
        found = raw_sockets.statuses(chain.port, raw.sent, timeout_s=8.0)
        seen.update(found)
        if len(found) != 1 or found[0] not in raw.statuses:
            wrong[raw.name] = found
    for raw in bad_input.SMUGGLED:
        found = raw_sockets.statuses(chain.port, raw.sent, timeout_s=3.0)
        if len(found) != 1 or found[0] not in raw.statuses:
            wrong[raw.name] = found
    return {"wrong": wrong, "seen": sorted(seen), "healthy": chain.is_ready()}


def slow(chain: Chain) -> dict[str, tuple[float, int]]:
    """Slow, half-sent and dripping requests, all at once; seconds and status of each."""
    head = bad_input._head(f"content-length: {len(bad_input.GOOD)}")
    drips = [bad_input.GOOD[index : index + 1] for index in range(30)]
    cases = {
        "silent": [],
        "half a head": [head[:20]],
        "dripping head": [head[index : index + 1] for index in range(30)],
        "no body": [head],
        "half a body": [head + bad_input.GOOD[:20]],
        "dripping body": [head, *drips],
        "half a chunk": [bad_input._head("transfer-encoding: chunked") + b"400\r\nabc"],
    }
    with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
        futures = {
            name: pool.submit(raw_sockets.held, chain.port, pieces, gap_s=0.6, most_s=14.0)
            for name, pieces in cases.items()
        }
        return {name: future.result() for name, future in futures.items()}


def doors(chain: Chain) -> dict[str, Any]:
    """Ask every route that Serve has, through the ingress and at every replica's own port."""
    import psutil
    from ray.serve import context

    body = json.dumps({"columns": {"size": [1.0], "colour": ["red"]}}).encode()
    asked, unguarded = [], []
    details = context._get_global_client().get_serve_details()
    routes = {name: app["route_prefix"] for name, app in details["applications"].items()}
    for prefix in routes.values():
        if prefix != "/":
            for path in (prefix, f"{prefix}/infer", f"{prefix}/score", f"{prefix}/x/infer"):
                found = raw_sockets.statuses(chain.port, _request(path, body))
                asked.append(("ingress", path, found))
                if found[0] not in (403, 404):
                    unguarded.append(("ingress", path, found))
    for kind, pids in (("gateway", chain.gateways()), ("variant", chain.variants())):
        for pid in pids:
            ports = {
                item.laddr.port for item in psutil.Process(pid).net_connections("tcp")
                if item.status == "LISTEN" and 30_000 <= item.laddr.port <= 31_000
            }  # fmt: skip
            for port in ports:
                for path in (f"/variants/{MODEL}/2/infer", f"/variants/{MODEL}/2/score", "/infer"):
                    found = raw_sockets.statuses(port, _request(path, body))
                    asked.append((kind, path, found))
                    if found[0] not in (403, 404):
                        unguarded.append((kind, path, found))
                listed = raw_sockets.statuses(port, _request("/-/routes", method="GET"))
                asked.append((kind, "/-/routes", listed))
    return {"asked": asked, "unguarded": unguarded, "routes": routes}


def _request(path: str, body: bytes = b"", *, method: str = "POST") -> bytes:
    # Some answers of Serve tell no length: only a closed connection says that they are whole.
    lines = (f"content-length: {len(body)}", "connection: close")
    return bad_input._head(*lines, path=path, method=method) + body


async def killed(chain: Chain) -> dict[str, Any]:
    """Half of the traffic to a candidate that is killed again and again."""
    load = OpenLoop(chain.url, bad_input.GOOD, rate=RATE)
    sending = asyncio.create_task(load.run(total=TOTAL))
    kills = 0
    while not sending.done():
        await asyncio.sleep(6.0)
        for pid in await in_thread(chain.variants):
            os.kill(pid, signal.SIGKILL)
            kills += 1
    ledger = await sending
    return {
        **ledger.summary(),
        "kills": kills,
        "misassigned": chain.misassigned(ledger.entries),
        "ids": len(ledger.entries),
    }


async def faulty(faults: Faults, *names: str) -> dict[str, Any]:
    """What operators do, and what breaks: each once or more under `TOTAL` requests."""
    found = {}
    for name in names:
        await in_thread(faults.calm)
        found[name] = await faults.run(ALL[name], bad_input.GOOD)
    return found


def main() -> None:
    """Run all with a private Ray."""
    folder, ports = Path(sys.argv[1]), [int(port) for port in sys.argv[2].split(",")]
    with Chain(folder, ports) as chain:
        stable = chain.serve()
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            # Slow clients only wait; meanwhile others must be answered all the same.
            waiting = pool.submit(slow, chain)
            result: dict[str, Any] = {"bad": bad(chain), "slow": waiting.result()}
        chain.publish(stable, chain.candidate("2"), share=0.5)
        result["doors"] = doors(chain)
        result["killed"] = asyncio.run(killed(chain))
        faults = Faults(chain, requests=TOTAL, faults=1, rate=RATE, most_s=90.0)
        result["faults"] = asyncio.run(faulty(faults, "swap", "put_again", "kill_controller"))
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
