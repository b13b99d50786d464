"""Drives the real controller on a real Ray Serve through deployments and rollouts.

A program of its own, since Ray reads its flags when it is imported. It prints one JSON line.
Usage: ``python -m tests.local.control_story FOLDER PORTS``, ports as for `serving_story`
"""

from __future__ import annotations

import asyncio
import collections
import json
import math
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from heliostat.control.client import ControlClient
from tests.local.serving_story import environment, stop_ingress

MODEL = "shapes"
RATE = 60.0
LABEL_DELAY_S = 1.0


def register(home: Path, uri: str) -> None:
    """Version 1 knows little, version 2 knows the truth, version 3 the opposite of it."""
    from heliostat.registry import signing
    from heliostat.registry.package import ModelInput
    from heliostat.registry.tracking import Tracking
    from heliostat.registry.versions import Registry
    from heliostat.store.home import Home
    from heliostat.testing import packages

    tracking = Tracking(uri)
    registry = Registry(tracking, Home(root=home))
    for number, weight in enumerate([0.1, 1.0, -1.0], start=1):
        draft = home / f"draft-{number}"
        inputs = [ModelInput(name="x", kind="numeric")]
        packages.write_package(
            draft, model=MODEL, inputs=inputs, weights=[weight], keys_dir=home / "keys"
        )
        signing.verify(draft, home / "keys")
        run_id = tracking.start_run("story", f"v{number}", {})
        version = registry.register(draft, MODEL, run_id, {})
        assert version.version == str(number), version
        tracking.finish(run_id, "FINISHED")


class Load:
    """Sends requests at a fixed rate and their labels a little later, without any retry."""

    def __init__(self, endpoint: str, control: ControlClient) -> None:
        self._url = f"{endpoint}/v2/models/{MODEL}/infer"
        self._control = control
        self._late: collections.deque[tuple[float, str, float]] = collections.deque()
        self._stopped = threading.Event()
        self.failed: list[str] = []
        self.began = time.time()
        self.versions: collections.Counter[str] = collections.Counter()
        self.last_of: dict[str, float] = {}
        self.num_sent = 0
        self.labels_failed = 0
        self._threads = [
            threading.Thread(target=lambda: asyncio.run(self._send())),
            threading.Thread(target=self._label),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    async def _send(self) -> None:
        import aiohttp

        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=2)
        timeout = aiohttp.ClientTimeout(total=5.0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            began, tasks = time.perf_counter(), set()
            while not self._stopped.is_set():
                await asyncio.sleep(max(0.0, began + self.num_sent / RATE - time.perf_counter()))
                task = asyncio.create_task(self._one(session, f"r{self.num_sent}"))
                self.num_sent += 1
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.gather(*tasks)

    async def _one(self, session: Any, name: str) -> None:
        x = random.gauss(0, 1.5)
        tensor = {"name": "x", "shape": [1], "datatype": "FP64", "data": [x]}
        headers = {"x-heliostat-request-id": name, "x-heliostat-unit": name}
        label = float(random.random() < 1 / (1 + math.exp(-x)))
        try:
            async with session.post(
                self._url, json={"inputs": [tensor]}, headers=headers
            ) as response:
                text = await response.text()
                if response.status != 200:
                    self._fail(f"{response.status} {text[:200]}")
                    return
                version = response.headers["x-heliostat-version"]
                self.versions[version] += 1
                self.last_of[version] = time.time()
        except Exception as error:  # noqa: BLE001 - every kind of failure counts
            self._fail(f"{type(error).__name__}: {error}")
        self._late.append((time.time() + LABEL_DELAY_S, name, label))

    def _fail(self, words: str) -> None:
        self.failed.append(f"{time.time() - self.began:.1f} s: {words}")

    def _label(self) -> None:
        while not self._stopped.wait(0.5):
            due = []
            while self._late and self._late[0][0] <= time.time():
                due.append(self._late.popleft()[1:])
            while due and not self._stopped.is_set():
                try:
                    self._control.label(due)
                    break
                except Exception:  # noqa: BLE001 - the controller is killed on purpose
                    self.labels_failed += 1
                    time.sleep(0.2)


def until_ended(control: ControlClient, rollout_id: str, limit_s: float) -> dict[str, Any]:
    """Watch a rollout; the controller may be away for a while."""
    ends = time.monotonic() + limit_s
    rollout: dict[str, Any] = {}
    while time.monotonic() < ends:
        try:
            rollout = control.rollout(rollout_id)
        except Exception as error:  # noqa: BLE001 - the controller is killed on purpose
            print(error, file=sys.stderr)
        else:
            if rollout["ended_at"]:
                return rollout
        time.sleep(0.2)
    raise AssertionError(json.dumps(rollout, indent=1))


def kill_controller() -> int:
    """SIGKILL the replica's process."""
    import psutil

    found = [
        process
        for process in psutil.process_iter(["cmdline"])
        if "ServeReplica:control:" in " ".join(process.info["cmdline"] or [])
        and os.getpid() in [parent.pid for parent in process.parents()]
    ]
    for process in found:
        process.send_signal(signal.SIGKILL)
    return len(found)


def story(folder: Path, port: int) -> dict[str, Any]:
    """Deploy 1, promote 2 with the controller killed on the way, refuse 3."""
    import ray
    from ray import serve

    from heliostat.control.application import application
    from heliostat.serving import deployments

    home = folder / "home"
    (home / "keys").mkdir(parents=True, mode=0o700)
    endpoint, uri = f"http://127.0.0.1:{port}", f"sqlite:///{folder}/mlflow.db"
    register(home, uri)
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        object_store_memory=128 << 20, _temp_dir=str(folder / "ray"),
    )  # fmt: skip
    told: dict[str, Any] = {}
    load = None
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        settings = {"home": str(home), "endpoint": endpoint}
        serve.run(deployments.gateway_application(settings), name="gateway", route_prefix="/")
        serve.run(
            application({**settings, "tracking_uri": uri}), name="control", route_prefix="/v1"
        )
        control = ControlClient(endpoint=endpoint)
        began = time.monotonic()
        told["deployed"] = control.deploy(MODEL, "1")
        told["deploy_s"] = round(time.monotonic() - began, 2)
        load = Load(endpoint, control)
        load.start()
        plan = {
            "model": MODEL, "steps_percent": [50, 100], "min_requests_per_step": 100,
            "errors": {"margin_ratio": 0.1},
            "latency": {"margin_ms": 500.0, "margin_ratio": 3.0, "quantile": 0.9},
        }  # fmt: skip
        first = control.start({**plan, "candidate": "2"})
        while not control.rollout(first)["share_percent"]:
            time.sleep(0.1)
        time.sleep(2.0)
        told["killed_at_s"] = round(time.time() - load.began, 1)
        told["killed"] = kill_controller()
        told["promoted"] = until_ended(control, first, 90.0)
        told["second_at_s"] = round(time.time() - load.began, 1)
        second = control.start({**plan, "candidate": "3"})
        told["refused"] = until_ended(control, second, 60.0)
        decided = next(
            event for event in told["refused"]["events"]
            if event["kind"] == "rollout.outcome_decided"
        )  # fmt: skip
        time.sleep(1.0)
        from datetime import datetime

        told["decision_to_last_candidate_s"] = round(
            load.last_of["3"] - datetime.fromisoformat(decided["at"]).timestamp(), 3
        )
        told["status"] = control.status()
        told["applications"] = {
            name: application.status.value
            for name, application in serve.status().applications.items()
        }
    finally:
        if load is not None:
            load.stop()
            told["sent"], told["failed"] = load.num_sent, load.failed
            told["versions"] = dict(load.versions)
        # Serve's own shutdown waits half a minute for replicas to drain; nobody is left here.
        ray.shutdown()
        stop_ingress(folder)
    return told


def main() -> None:
    """Run the story with a private Ray."""
    folder, ports = Path(sys.argv[1]), [int(port) for port in sys.argv[2].split(",")]
    os.environ.update(environment(folder, ports))
    # MLflow without a server keeps artifacts below the working directory.
    os.chdir(folder)
    print(json.dumps(story(folder, ports[0])), flush=True)


if __name__ == "__main__":
    main()
