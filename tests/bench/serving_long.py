"""What of the data plane shows only over time or at the limit: `make prove-serving`.

Parts, by ``--only``: `policies` (1,000 changes under load), `stream` (one answer over ten starts of
variants), `overload` (three times the capacity), `models` (50 in one gateway), `own` (a model with
a gateway of its own, which Serve scales), `shadow` (what pairing adds at half load), `memory` (ten
minutes of load). ``--small`` makes each short, to see that it works. Writes
``tests/bench/results/serving.json``, section ``long``.

Usage: ``python -m tests.bench.run tests.bench.serving_long [--only PARTS] [--small]``
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench import long_parts, own_gateway, results
from tests.bench.serving import RESULT, keep
from tests.local.chain import Chain

Part = Callable[..., Any]

PARTS: dict[str, Part] = {
    "policies": long_parts.policies,
    "stream": long_parts.stream,
    "shadow": long_parts.shadow,
    "models": long_parts.models,
    "own": own_gateway.own,
    "overload": long_parts.overload,
    "memory": long_parts.memory,
}


def main() -> None:
    """Run the parts on one chain and keep each as it ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("ports")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--small", action="store_true")
    asked = parser.parse_args()
    random.seed(3)
    ports = [int(port) for port in asked.ports.split(",")]
    lines = {
        "name": "lines", "route_prefix": "/lines", "import_path": "tests.bench.streaming_app:build",
    }  # fmt: skip
    with Chain(asked.folder, ports) as chain:
        chain.put(gateways=2, more=[lines])
        chain.wait(lambda: chain.num_routed() == 2, timeout_s=180.0)
        chain.publish(chain.stable("1"))
        chain.wait(chain.is_ready)
        for name in asked.only.split(","):
            found = asyncio.run(PARTS[name](chain, small=asked.small))
            found |= {
                "arguments": " ".join(sys.argv[3:]), "commit": results.commit(),
                "small": asked.small, "load_average": round(os.getloadavg()[0], 1),
            }  # fmt: skip
            print(name, json.dumps(found), flush=True)
            known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
            parts = known.get("long", {}).get("parts", {})
            keep("long", {"parts": {**parts, name: found}})


if __name__ == "__main__":
    main()
