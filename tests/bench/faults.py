"""Kills, stops, swaps and scales the serving chain under open-loop load: `make prove-serving`.

Each fault has its own run and its own ledger, kept by the client: sent, answered, failed, lost
and late are counted there, never from the platform's metrics. ``--requests`` and ``--faults`` per
kind at least, at half of what the chain can take under the same policy and with the same bodies;
``--only`` names some. Writes ``tests/bench/results/serving.json``, section ``faults``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from tests.bench import results
from tests.bench.fault_kinds import ALL, ALONE, LARGE, body_of
from tests.bench.fault_runs import Faults, capacity
from tests.bench.serving import RESULT, keep
from tests.local.chain import Chain


def main() -> None:
    """Run them and keep the ledgers."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("ports")
    parser.add_argument("--requests", type=int, default=30_000)
    parser.add_argument("--faults", type=int, default=20, help="at least so many of each kind")
    parser.add_argument("--rate", type=float, help="default: half of the measured capacity")
    parser.add_argument("--most-s", type=float, default=900.0, help="of one kind")
    parser.add_argument("--only", default=",".join(ALL))
    parser.add_argument("--to", type=Path, help="write the runs there, not into the results")
    asked = parser.parse_args()
    ports = [int(port) for port in asked.ports.split(",")]
    found: dict[str, Any] = {}
    with Chain(asked.folder, ports) as chain:
        chain.put(gateways=2)
        chain.wait(lambda: chain.num_routed() == 2)
        chain.publish(chain.stable("1"))
        chain.wait(chain.is_ready)
        faults = Faults(
            chain,
            requests=asked.requests,
            faults=asked.faults,
            rate=asked.rate or 0.0,
            most_s=asked.most_s,
        )
        most: dict[tuple[bool, bool], float] = {}
        for name in asked.only.split(","):
            body = body_of(name)
            faults.calm(alone=name in ALONE)
            chain.wait(lambda: chain.num_routed() == 2)
            kind = (name in ALONE, body is LARGE)
            if asked.rate is None:
                if kind not in most:
                    most[kind] = asyncio.run(capacity(chain, body=body))
                faults.rate = round(most[kind] / 2)
            print(f"{name}: capacity {most.get(kind)}, rate {faults.rate}", flush=True)
            found[name] = {
                **asyncio.run(faults.run(ALL[name], body)),
                "arguments": " ".join(sys.argv[3:]),
                "capacity_per_s": most.get(kind),
                "commit": results.commit(),
                "load_average": round(os.getloadavg()[0], 1),
            }
            if asked.to is None:
                _keep(found)
            else:
                asked.to.write_text(json.dumps(found))
            print(name, {k: v for k, v in found[name].items() if k != "by_version"}, flush=True)


def _keep(found: dict[str, Any]) -> None:
    """Keep each run as soon as it ended, beside those of earlier commands."""
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    runs = known.get("faults", {}).get("runs", {})
    keep("faults", {"runs": {**runs, **found}})


if __name__ == "__main__":
    main()
