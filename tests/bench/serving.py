"""The gateway beside a bare app, and with candidates: `make bench-serving`.

Everything runs in one Ray, in interleaved rounds; the figures are ratios of neighbours in time.
Writes ``tests/bench/results/serving.json``. Usage: ``python -m tests.bench.serving FOLDER PORTS``
with optional ``--rounds N --seconds S``; `tests/bench/run.py` chooses folder and ports.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from heliostat.access.keys import KeyFile
from heliostat.registry.package import ModelInput
from tests.bench import results, wrk
from tests.local.chain import MODEL, Chain

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "tests" / "bench" / "results" / "serving.json"
INPUTS = tuple(ModelInput(name=f"n{index}", kind="numeric") for index in range(8))
BODY = json.dumps(
    {
        "inputs": [
            {"name": item.name, "shape": [1], "datatype": "FP32", "data": [0.125 * index]}
            for index, item in enumerate(INPUTS)
        ]
    }
).encode()


PROOFS = ("faults", "long", "bad_requests", "clients")
"""Sections of the results that `make prove-serving` writes."""


def keep(section: str, figures: dict[str, Any]) -> None:
    """Write one section of the results, leaving the others as they were."""
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    known[section] = {
        "command": "make prove-serving" if section in PROOFS else "make bench-serving",
        "arguments": " ".join(sys.argv[3:]),
        "commit": results.commit(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        **figures,
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def compare(
    sides: dict[str, Callable[[], dict[str, float]]], rounds: int
) -> dict[str, list[dict[str, float]]]:
    """Run every side once per round, in turn, the order reversed in every second round."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else list(reversed(sides)):
            found[name].append(sides[name]())
            print(
                f"  {number + 1}/{rounds} {name:<22} {found[name][-1]['per_s']:8.0f}/s", flush=True
            )
    return found


def ratio(
    found: dict[str, list[dict[str, float]]], one: str, other: str, what: str = "per_s"
) -> dict[str, Any]:
    """Ratio of two sides in each round."""
    pairs = zip(found[one], found[other], strict=True)
    return wrk.spread([left[what] / right[what] for left, right in pairs])


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("ports")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    asked = parser.parse_args()
    if not wrk.available():
        sys.exit("wrk is not installed: apt-get install wrk")
    ports = [int(port) for port in asked.ports.split(",")]
    with Chain(asked.folder, ports, admission="on") as chain:
        chain.inputs = INPUTS
        text, _ = KeyFile(chain.home / "keys", time.time).create("bench")
        key = {"Authorization": f"Bearer {text}"}
        path, _ = chain.package("1")
        chain.put(more=[
            {"name": "bare", "route_prefix": "/bare", "import_path": "tests.bench.bare_app:build",
             "args": {"network": f"{path}/model.onnx"}},
        ])  # fmt: skip
        chain.wait(lambda: chain.ask("/v2/health/live")[0] == 200)
        chain.wait(lambda: chain.ask("/bare", BODY)[0] == 200)
        stable = chain.stable("1")
        chain.publish(stable)
        chain.wait(lambda: chain.ask(f"/v2/models/{MODEL}/infer", BODY, **key)[0] == 200)
        assert chain.ask(f"/v2/models/{MODEL}/infer", BODY)[0] == 401

        def load(path: str, connections: int) -> dict[str, float]:
            kind = "ray::ServeReplica:" + ("bare" if path == "/bare" else "gateway")
            before = chain.cpu_s(kind)
            found = wrk.run(
                asked.folder, chain.endpoint + path, BODY,
                connections=connections, seconds=asked.seconds, headers=key,
            )  # fmt: skip
            found["cpu_us"] = (chain.cpu_s(kind) - before) / found["requests"] * 1e6
            return found

        infer = f"/v2/models/{MODEL}/infer"
        load("/bare", 32), load(infer, 32)
        time.sleep(1.5)  # until the exposures of the warm-up are on disk
        before = len(list(chain.exposures()))
        full = compare(
            {"bare, 32": lambda: load("/bare", 32), "gateway, 32": lambda: load(infer, 32)},
            asked.rounds,
        )
        single = compare(
            {"bare, 1": lambda: load("/bare", 1), "gateway, 1": lambda: load(infer, 1)},
            asked.rounds,
        )
        time.sleep(1.5)
        exposed = len(list(chain.exposures())) - before
        answered = sum(
            item["requests"] for found in (full["gateway, 32"], single["gateway, 1"])
            for item in found
        )  # fmt: skip
        isolated = chain.candidate("2")
        colocated = dataclasses.replace(chain.stable("3"), role="candidate")
        warm = (0.0, 0.1)

        def under(*variants: Any, share: float, **more: Any) -> dict[str, float]:
            chain.publish(*variants, share=share, rollout_id="bench", **more)
            return load(infer, 32)

        shares = compare(
            {
                "0 %": lambda: under(stable, isolated, share=warm[0]),
                "10 % isolated": lambda: under(stable, isolated, share=warm[1]),
                "50 % colocated": lambda: under(stable, colocated, share=0.5),
            },
            asked.rounds,
        )
        figures = {
            "rounds": asked.rounds,
            "seconds_per_round": asked.seconds,
            "bare_per_s": wrk.spread([item["per_s"] for item in full["bare, 32"]]),
            "gateway_per_s": wrk.spread([item["per_s"] for item in full["gateway, 32"]]),
            "cpu_us_per_request": {
                name: wrk.spread([item["cpu_us"] for item in found])
                for name, found in full.items()
            },
            "gateway_to_bare_32": ratio(full, "gateway, 32", "bare, 32"),
            "added_p50_ms_1": wrk.spread(
                [
                    one["p50_ms"] - other["p50_ms"]
                    for one, other in zip(single["gateway, 1"], single["bare, 1"], strict=True)
                ]
            ),
            "p50_ms_1": {
                name: wrk.spread([item["p50_ms"] for item in found])
                for name, found in single.items()
            },
            "isolated_10_to_0": ratio(shares, "10 % isolated", "0 %"),
            "colocated_50_to_0": ratio(shares, "50 % colocated", "0 %"),
            "errors": sum(
                item["errors"] for part in (full, single, shares) for found in part.values()
                for item in found
            ),
            "answered": int(answered),
            "exposed": exposed,
            "load_average": os.getloadavg()[0],
        }  # fmt: skip
    keep("gateway", figures)
    for name in ("gateway_to_bare_32", "added_p50_ms_1", "isolated_10_to_0", "colocated_50_to_0"):
        item = figures[name]
        print(f"{name:<22} {item['median']:.3f} ({item['least']:.3f} to {item['most']:.3f})")
    print(f"answered {figures['answered']}, exposed {exposed}, errors {figures['errors']:.0f}")


if __name__ == "__main__":
    main()
