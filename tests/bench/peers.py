"""The gateway's full path beside other servers of the same network: `make bench-serving`.

All of them are up at once, each with one worker, and are loaded in turn with the same wrk, body
and kept connections, in interleaved rounds. The gateway does all of its work: API key, slot,
prediction, evidence, an exposure on disk for each answer. The others only predict.

Usage: ``python -m tests.bench.run tests.bench.peers --environments FOLDER``, where FOLDER keeps the
environments of the peers; without it they are made in the run's own folder and thrown away.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from heliostat.access.keys import KeyFile
from heliostat.testing.ports import free_ports
from tests.bench import wrk
from tests.bench.environments import python_with, version_in
from tests.bench.peer_programs import PEERS, Peer
from tests.bench.serving import BODY, INPUTS, compare, keep, ratio
from tests.local.chain import MODEL, Chain

MLFLOW_BODY = json.dumps(
    {"inputs": {"numeric": [[0.125 * index for index in range(len(INPUTS))]]}}
).encode()
START_S = 120.0


@contextlib.contextmanager
def running(peer: Peer, python: str, folder: Path, network: str) -> Iterator[str]:
    """Run a peer's server; give its URL once it answers our body well."""
    own = folder / f"peer-{peer.name.lower()}"
    own.mkdir()
    (own / "server.py").write_text(peer.program)
    (port,) = free_ports(1)
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "PYTHONPATH"))},
        "NETWORK": network, "PORT": str(port), "BENTOML_HOME": str(own / "bento"),
        "BENTOML_DO_NOT_TRACK": "True", "OMP_NUM_THREADS": "1", "HOME": str(own),
        "PATH": f"{Path(python).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    log = own / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [python, *(word.format(port=port) for word in peer.command)],
            cwd=own, env=environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}{peer.path}"
    try:
        until = time.monotonic() + START_S
        while not _answers(url, body_of(peer)):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{peer.name} did not start:\n{log.read_text()[-3000:]}")
            time.sleep(0.5)
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def body_of(peer: Peer) -> bytes:
    """What it is sent."""
    return MLFLOW_BODY if peer.is_mlflow_body else BODY


def _answers(url: str, body: bytes) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, data=body, headers={"content-type": "application/json"})
    try:
        with opener.open(request, timeout=5.0) as answer:
            return bool(answer.status == 200 and b"0.9" in answer.read())
    except OSError:
        return False


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("ports")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--environments", type=Path)
    parser.add_argument("--only", default=",".join(peer.name for peer in PEERS))
    asked = parser.parse_args()
    if not wrk.available():
        sys.exit("wrk is not installed: apt-get install wrk")
    environments = asked.environments or asked.folder / "environments"
    peers = [peer for peer in PEERS if peer.name in asked.only.split(",")]
    pythons = {
        peer.name: python_with(peer.name.lower(), peer.requirements, environments) for peer in peers
    }
    ports = [int(port) for port in asked.ports.split(",")]
    with Chain(asked.folder, ports, admission="on") as chain, contextlib.ExitStack() as stack:
        chain.inputs = INPUTS
        text, _ = KeyFile(chain.home / "keys", time.time).create("bench")
        key = {"Authorization": f"Bearer {text}"}
        path, _ = chain.package("1")
        network = {"network": f"{path}/model.onnx"}
        chain.put(more=[
            {"name": name, "route_prefix": f"/{name}", "import_path": f"tests.bench.{module}:build",
             "args": network} for name, module in (("bare", "bare_app"), ("fastapi", "fastapi_app"))
        ])  # fmt: skip
        for ours in ("/bare", "/fastapi/"):
            chain.wait(lambda ours=ours: chain.ask(ours, BODY)[0] == 200)
        chain.publish(chain.stable("1"))
        infer = f"/v2/models/{MODEL}/infer"
        chain.wait(lambda: chain.ask(infer, BODY, **key)[0] == 200)
        targets: dict[str, tuple[str, bytes, dict[str, str]]] = {
            "gateway, full path": (chain.endpoint + infer, BODY, key),
            "raw ASGI on Serve": (f"{chain.endpoint}/bare", BODY, {}),
            "FastAPI on Serve": (f"{chain.endpoint}/fastapi/", BODY, {}),
        }
        for peer in peers:
            url = stack.enter_context(
                running(peer, pythons[peer.name], asked.folder, network["network"])
            )
            targets[peer.name] = (url, body_of(peer), {})

        def load(name: str, connections: int) -> dict[str, float]:
            url, body, headers = targets[name]
            return wrk.run(
                asked.folder, url, body,
                connections=connections, seconds=asked.seconds, headers=headers,
            )  # fmt: skip

        for name in targets:
            load(name, 32)
        time.sleep(1.5)
        before = len(list(chain.exposures()))
        many = compare({name: lambda name=name: load(name, 32) for name in targets}, asked.rounds)
        one = compare({name: lambda name=name: load(name, 1) for name in targets}, asked.rounds)
        time.sleep(1.5)
        exposed = len(list(chain.exposures())) - before
    versions = {peer.name: version_in(pythons[peer.name], peer.name.lower()) for peer in peers}
    figures = _figures(targets, many, one, peers, versions)
    ours = [item for found in (many, one) for item in found["gateway, full path"]]
    figures |= {
        "rounds": asked.rounds,
        "seconds_per_round": asked.seconds,
        "answered": int(sum(item["requests"] for item in ours)),
        "exposed": exposed,
        "load_average": os.getloadavg()[0],
    }
    keep("peers", figures)
    _show(figures)


def _figures(
    targets: dict[str, Any],
    many: dict[str, list[dict[str, float]]],
    one: dict[str, list[dict[str, float]]],
    peers: list[Peer],
    versions: dict[str, str],
) -> dict[str, Any]:
    settings = {
        "gateway, full path": "API key, slot, prediction, evidence, exposure on disk",
        "raw ASGI on Serve": "HAProxy ingress, throughput flags, no admission, no record",
        "FastAPI on Serve": "the same flags",
        **{peer.name: f"{versions[peer.name]}: {peer.setting}" for peer in peers},
    }
    rows = {
        name: {
            "setting": settings[name],
            "per_s_32": wrk.spread([item["per_s"] for item in many[name]]),
            "p50_ms_1": wrk.spread([item["p50_ms"] for item in one[name]]),
            "p99_ms_32": wrk.spread([item["p99_ms"] for item in many[name]]),
            "errors": sum(item["errors"] for item in (*many[name], *one[name])),
        }
        for name in targets
    }
    others = [name for name in targets if name not in ("gateway, full path", "raw ASGI on Serve")]
    fastest = max(others, key=lambda name: rows[name]["per_s_32"]["median"])
    return {
        "servers": rows,
        "fastest_peer": fastest,
        "gateway_to_fastest_peer_32": ratio(many, "gateway, full path", fastest),
        "gateway_to_bare_32": ratio(many, "gateway, full path", "raw ASGI on Serve"),
    }


def _show(figures: dict[str, Any]) -> None:
    print(f"\n{'server':<20} {'requests/s at 32 (range)':>28} {'p50 ms at 1 (range)':>26}  setting")
    for name, row in figures["servers"].items():
        many, one = row["per_s_32"], row["p50_ms_1"]
        print(
            f"{name:<20} {many['median']:10.0f} ({many['least']:.0f} to {many['most']:.0f})".ljust(
                50
            )
            + f"{one['median']:10.3f} ({one['least']:.3f} to {one['most']:.3f})".ljust(28)
            + row["setting"]
        )
    for name in ("gateway_to_bare_32", "gateway_to_fastest_peer_32"):
        item = figures[name]
        print(f"{name:<28} {item['median']:.3f} ({item['least']:.3f} to {item['most']:.3f})")
    print(f"answered {figures['answered']}, exposed {figures['exposed']}")


if __name__ == "__main__":
    main()
