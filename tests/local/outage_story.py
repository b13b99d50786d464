"""Stops the state database, MLflow and Prometheus for minutes in the middle of live rollouts.

Also runs, under live requests, what the other stories leave out: a twin, a check, a bake and an
A/B test. A program of its own, since Ray reads its flags when it is imported. It prints one JSON
line. Usage: ``python -m tests.local.outage_story FOLDER PORTS OUTAGE_S``, ports as for
`serving_story`
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from heliostat.control.client import ControlClient
from heliostat.errors import Unavailable
from heliostat.stack import parts
from heliostat.stack.settings import Ports, StackSettings
from heliostat.testing.ports import free_ports
from tests.local.chain import Chain
from tests.local.control_story import MODEL, Load, until_ended
from tests.local.rollback_story import GOOD, PLANS, WORSE, register
from tests.unit import prometheus

STOPPED_S = 6.0
"""How long the candidate's process is stopped while the store is away."""

NUM_UNITS = 400


class Tracker:
    """A real MLflow server, started as the platform does, that can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self._folder = folder
        self._settings = StackSettings(ports=Ports(mlflow=port))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        variables = parts.mlflow_variables(self._settings, self._folder)
        self._process = subprocess.Popen(
            parts.mlflow_command(self._settings), start_new_session=True,
            env={**os.environ, **variables},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        ends = time.monotonic() + 240
        while time.monotonic() < ends:
            with contextlib.suppress(OSError), opener.open(f"{self.url}/health", timeout=2):
                return
            time.sleep(0.2)
        self.stop()
        raise AssertionError("mlflow did not come up")

    def stop(self) -> None:
        """Kill the server and its workers, if it runs."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@contextlib.contextmanager
def locked(database: Path) -> Iterator[None]:
    """Hold the database's write lock as a process that hangs in the middle of a write does."""
    connection = sqlite3.connect(database, isolation_level=None, timeout=60.0)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


def with_traffic(control: ControlClient, rollout_id: str) -> None:
    """Wait until the candidate has a share."""
    while not (rollout := control.rollout(rollout_id))["share_percent"]:
        assert not rollout["ended_at"], rollout["because"]
        time.sleep(0.1)


def watched(control: ControlClient, rollout_id: str, seconds: float) -> list[str]:
    """What the rollout was said to be during an outage; each state once."""
    seen: dict[str, None] = {}
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        try:
            rollout = control.rollout(rollout_id)
            seen[f"{rollout['state']} at {rollout['share_percent']:g} %"] = None
        except Exception as error:  # noqa: BLE001 - what is away may make it fail
            seen[type(error).__name__] = None
        time.sleep(0.5)
    return list(seen)


def store_away(chain: Chain, control: ControlClient, load: Load, outage_s: float) -> dict[str, Any]:
    """Nobody can write the state database while a bad candidate has traffic, and then hangs."""
    failed, sent = len(load.failed), load.num_sent
    rollout_id = control.start(PLANS[WORSE])
    with_traffic(control, rollout_id)
    with locked(chain.home / "state.db"):
        seen = watched(control, rollout_id, outage_s - STOPPED_S)
        before = load.versions[WORSE]
        stopped = chain.variants()
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(1.0)
        # What was under way has its fallback; from now on the breaker must keep requests away.
        quiet = load.versions[WORSE]
        seen += watched(control, rollout_id, STOPPED_S - 1.0)
        while_stopped = load.versions[WORSE] - quiet
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    ended = until_ended(control, rollout_id, 240.0)
    time.sleep(1.5)
    decided = next(
        event for event in ended["events"] if event["kind"] == "rollout.outcome_decided"
    )  # fmt: skip
    at = datetime.fromisoformat(decided["at"]).timestamp()
    return {
        "outage_s": outage_s,
        "seen": seen,
        "candidate_requests_before": before,
        "processes_stopped": len(stopped),
        "answered_by_the_stopped": while_stopped,
        "state": ended["state"],
        "because": ended["because"],
        "decision_to_last_candidate_s": round(load.last_of[WORSE] - at, 3),
        "failed": len(load.failed) - failed,
        "first_failures": load.failed[failed : failed + 5],
        "sent": load.num_sent - sent,
    }


def registry_and_checks_away(
    control: ControlClient,
    load: Load,
    tracker: Tracker,
    metrics: prometheus.Server,
    outage_s: float,
) -> dict[str, Any]:
    """Both are killed under a good candidate with a twin, a check and a bake; then they return."""
    failed, sent = len(load.failed), load.num_sent
    plan = {
        **PLANS[GOOD], "twin": True, "bake_s": 20.0, "max_inconclusive_s": 2 * outage_s + 300,
        "checks": [
            {
                "name": "cpu", "url": metrics.url, "query": "vector(0.5)", "at_most": 0.9,
                "every_s": 2.0, "timeout_s": 2.0,
            }
        ],
    }  # fmt: skip
    metrics.stop()
    rollout_id = control.start(plan)
    with_traffic(control, rollout_id)
    tracker.stop()
    seen = watched(control, rollout_id, outage_s)
    held = control.rollout(rollout_id)
    metrics.start()
    tracker.start()
    phases: dict[str, None] = {}

    def watch() -> bool:
        rollout = control.rollout(rollout_id)
        phases[rollout.get("phase") or rollout["state"]] = None
        return bool(rollout["ended_at"])

    wait(watch, 240.0)
    ended = control.rollout(rollout_id)
    return {
        "outage_s": outage_s,
        "seen": seen,
        "held_because": held["because"],
        "phases_after": list(phases),
        "state": ended["state"],
        "kinds": list(dict.fromkeys(event["kind"] for event in ended["events"])),
        "failed": len(load.failed) - failed,
        "first_failures": load.failed[failed : failed + 5],
        "sent": load.num_sent - sent,
    }


def wait(holds: Callable[[], bool], limit_s: float) -> None:
    """Ask again and again until it holds."""
    ends = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < ends, "it did not come to hold"
        time.sleep(0.3)


def compared(chain: Chain, control: ControlClient) -> dict[str, Any]:
    """An A/B test under live requests: the same units come again, and do more with the candidate."""
    plan = {
        "model": MODEL, "candidate": WORSE, "kind": "ab", "steps_percent": [50],
        "errors": {"margin_ratio": 0.1}, "latency": None, "loss": None,
        "max_inconclusive_s": 600.0,
        "comparison": {
            "metric": "spent", "effect": 0.8, "deviation": 1.0, "looks": 3,
            "stop": "obrien_fleming", "on_win": "report",
        },
    }  # fmt: skip
    chance = random.Random(5)
    # A metric that nobody ever reported is refused.
    early = [outcome(f"early-{n}", f"v{n}", chance.gauss(5, 1)) for n in range(5)]
    control.report_outcomes(MODEL, early)
    rollout_id = control.start(plan)
    with_traffic(control, rollout_id)
    time.sleep(1.0)
    versions: dict[str, set[str]] = {}
    turns = failed = 0
    while turns < 20 and not control.rollout(rollout_id)["ended_at"]:
        turns += 1
        done, seen = [], {}
        for number in range(NUM_UNITS):
            unit = f"v{number}"
            version = asked(chain, unit)
            failed += version is None
            if version is not None:
                seen[unit] = version
                lift = 2.0 if version == WORSE else 0.0
                done.append(outcome(f"{turns}-{unit}", unit, chance.gauss(5 + lift, 1)))
            # Not all units are there at the first look.
            if number >= 40 * turns:
                break
        rollout = control.rollout(rollout_id)
        if (rollout.get("phase") or rollout["state"]) != "running":
            # Some of these units were asked after the decision, when stable answers everything.
            break
        for unit, version in seen.items():
            versions.setdefault(unit, set()).add(version)
        control.report_outcomes(MODEL, done)
        time.sleep(0.5)
    ended = until_ended(control, rollout_id, 120.0)
    return {
        "state": ended["state"],
        "because": ended["because"],
        "looks": len(ended["looks"]),
        "found": [look["difference"] for look in ended["looks"]][-1:],
        "units": len(versions),
        "units_with_two_versions": sum(len(item) > 1 for item in versions.values()),
        "units_of_the_candidate": sum(item == {WORSE} for item in versions.values()),
        "failed": failed,
    }


def outcome(name: str, unit: str, value: float) -> dict[str, Any]:
    """One outcome, now."""
    return {"outcome_id": name, "unit": unit, "metric": "spent", "value": value, "at": time.time()}


def asked(chain: Chain, unit: str) -> str | None:
    """Who answers a unit; None if nobody does."""
    tensor = {"name": "x", "shape": [1], "datatype": "FP64", "data": [0.5]}
    request = urllib.request.Request(
        f"{chain.endpoint}/v2/models/{MODEL}/infer",
        data=json.dumps({"inputs": [tensor]}).encode(),
        headers={"x-heliostat-unit": unit, "content-type": "application/json"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5.0) as answer:
            return str(answer.headers["x-heliostat-version"])
    except OSError:
        return None


def deploy(control: ControlClient) -> None:
    """Deploy the first version; on a busy machine the answer may be lost, the deployment is not."""
    try:
        control.deploy(MODEL, "1")
    except Unavailable:
        say("the answer to the deployment was lost")

    def is_stable() -> bool:
        with contextlib.suppress(Unavailable, KeyError):
            return bool(control.status()["models"][MODEL]["stable"] == "1")
        return False

    wait(is_stable, 240.0)


def story(folder: Path, ports: list[int], outage_s: float) -> dict[str, Any]:
    """The store, then registry and Prometheus, then the A/B test, on one platform."""
    from ray import serve

    from heliostat.control.application import application

    told: dict[str, Any] = {}
    (folder / "prometheus").mkdir()
    tracker, metrics = Tracker(folder), prometheus.Server(folder / "prometheus")
    with Chain(folder, ports) as chain, contextlib.ExitStack() as ending:
        register(chain.home, f"sqlite:///{folder}/mlflow.db")
        tracker.start()
        ending.callback(tracker.stop)
        ending.callback(metrics.stop)
        chain.put()
        settings = {
            "home": str(chain.home), "endpoint": chain.endpoint, "tracking_uri": tracker.url,
        }  # fmt: skip
        serve.run(application(settings), name="control", route_prefix="/v1")
        chain.wait(lambda: chain.ask("/v1/status")[0] == 200)
        chain.wait(lambda: chain.ask("/v2/health/live")[0] == 200)
        control = ControlClient(endpoint=chain.endpoint)
        deploy(control)
        load = Load(chain.endpoint, control)
        load.start()
        ending.callback(load.stop)
        time.sleep(2.0)
        told["store"] = store_away(chain, control, load, outage_s)
        say(told["store"])
        told["registry_and_prometheus"] = registry_and_checks_away(
            control, load, tracker, metrics, outage_s
        )
        say(told["registry_and_prometheus"])
        told["ab"] = compared(chain, control)
        say(told["ab"])
        told["audit"] = control.audit()["tampered"]
        told["sent"], told["failed"] = load.num_sent, list(load.failed)
    return told


def say(words: object) -> None:
    """Tell on stderr how far it is."""
    print(json.dumps(words), file=sys.stderr, flush=True)


def main() -> None:
    """Run the story with a private Ray."""
    folder, ports = Path(sys.argv[1]), [int(port) for port in sys.argv[2].split(",")]
    # MLflow without a server keeps artifacts below the working directory.
    os.chdir(folder)
    print(json.dumps(story(folder, ports, float(sys.argv[3]))), flush=True)


if __name__ == "__main__":
    main()
