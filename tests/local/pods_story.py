"""Pods in networks of their own, and the operator's part, without Ray; prints one JSON line.

Usage, inside `pods.isolated`: ``python -m tests.local.pods_story FOLDER``
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from heliostat.testing.kuberay import FakeOperator
from heliostat.testing.kubernetes import FakeKubernetes
from heliostat.testing.pods import NODE_IP, PodNetwork
from tests.conftest import ROOT

# Says who it is on every port that a head has, and ends when it is told to.
SERVER = """
import http.server, os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(os.environ["RAY_CLOUD_INSTANCE_ID"].encode())
    def log_message(self, *_): pass
open("/tmp/mine", "x").write(os.environ["RAY_NODE_TYPE_NAME"])
http.server.HTTPServer(("0.0.0.0", 8265), Handler).serve_forever()
"""


def until(condition: Callable[[], Any]) -> Any:
    """Wait for something, for a minute at most."""
    deadline = time.monotonic() + 60
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)
    return found


def main() -> None:
    """Scale up, delete one by name, and end."""
    import urllib.request

    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(address: str) -> str:
        try:
            with opener.open(f"http://{address}:8265/", timeout=2) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    folder = Path(sys.argv[1])
    network = PodNetwork(folder / "pods", [ROOT, Path(sys.prefix)])
    api = FakeKubernetes(NODE_IP, 6443, folder / "kubernetes")
    operator = FakeOperator(
        api, network, cwd=ROOT, environment={"PATH": os.environ["PATH"]}, secrets={},
        adapt=lambda _command, environment, _name: ([sys.executable, "-c", SERVER], environment),
    )  # fmt: skip
    template = {"spec": {"containers": [{"name": "ray", "image": "a/b:1"}]}}
    group = {"groupName": "cpu", "replicas": 2, "minReplicas": 0, "maxReplicas": 3,
             "rayStartParams": {}, "template": template}  # fmt: skip
    spec = {"headGroupSpec": {"rayStartParams": {}, "template": template},
            "workerGroupSpecs": [group]}  # fmt: skip
    body = {"apiVersion": "ray.io/v1", "kind": "RayCluster",
            "metadata": {"name": "one", "namespace": "n"}, "spec": spec}  # fmt: skip
    api.put(body)
    until(lambda: len(operator.workers("one")) == 2 and ask(operator.head("one").address))
    workers = operator.workers("one")
    until(lambda: all(ask(worker.address) == worker.name for worker in workers))
    states = {item["status"]["phase"] for item in until(
        lambda: [p for p in api.all("Pod") if "containerStatuses" in p["status"]])}  # fmt: skip
    # The autoscaler writes both at once: fewer, and which one.
    stored = api.get("RayCluster", "n", "one")
    assert stored is not None
    doomed = workers[0].name
    stored["spec"]["workerGroupSpecs"][0] |= {
        "replicas": 1, "scaleStrategy": {"workersToDelete": [doomed]},
    }  # fmt: skip
    api.put(stored)
    until(lambda: [worker.name for worker in operator.workers("one")] == [workers[1].name])
    seen = {
        "problems": operator.problems,
        "addresses": sorted([operator.head("one").address, *(w.address for w in workers)]),
        "groups": sorted((folder / "pods" / w.name / "mine").read_text() for w in workers),
        "states": sorted(states),
        "ended": [name for _, name, _ in operator.ended] == [doomed],
        "slow_ends": [name for _, name, seconds in operator.ended if seconds > 20],
        "still_there": ask(workers[1].address) == workers[1].name,
        "gone": ask(workers[0].address),
    }
    workers[1].process.kill()
    until(lambda: operator.failed and len(operator.workers("one")) == 1)
    (other,) = operator.workers("one")
    until(lambda: ask(other.address) == other.name)
    seen["failed"] = operator.failed == [workers[1].name] and other.name != workers[1].name
    operator.delete("one", "n")
    seen["left"] = len(api.all("Pod"))
    operator.close()
    print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
