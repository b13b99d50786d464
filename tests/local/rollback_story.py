"""Lets bad candidates loose on the real gateway, and PUTs Serve's configuration in the middle.

A program of its own, since Ray reads its flags when it is imported. It prints one JSON line.
Usage: ``python -m tests.local.rollback_story FOLDER PORTS RUNS``, ports as for `serving_story`
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from heliostat.control.client import ControlClient
from tests.local.chain import Chain
from tests.local.control_story import MODEL, Load, until_ended

ERRS, SLOW, WORSE, GOOD = "2", "3", "4", "5"
"""One row in five fails; takes tens of milliseconds; knows the opposite; knows the truth."""

LEAST: dict[str, Any] = {
    "model": MODEL,
    "steps_percent": [20, 100],
    "min_requests_per_step": 100,
    "max_inconclusive_s": 150,
    "errors": {"margin_ratio": 0.1},
    "latency": None,
    "loss": None,
}
PLANS: dict[str, dict[str, Any]] = {
    ERRS: {**LEAST, "candidate": ERRS},
    SLOW: {
        **LEAST,
        "candidate": SLOW,
        "latency": {"quantile": 0.9, "margin_ms": 5.0, "margin_ratio": 2.0},
    },
    WORSE: {**LEAST, "candidate": WORSE, "loss": {"margin": 0.01}},
    GOOD: {**LEAST, "candidate": GOOD, "loss": {"margin": 0.05}},
}


def register(home: Path, uri: str) -> None:
    """Version 1 knows the truth half; see the constants for the others."""
    from heliostat.registry import signing
    from heliostat.registry.package import ModelInput
    from heliostat.registry.tracking import Tracking
    from heliostat.registry.versions import Registry
    from heliostat.store.home import Home
    from heliostat.testing import packages

    tracking = Tracking(uri)
    registry = Registry(tracking, Home(root=home))
    options: list[dict[str, Any]] = [
        {"weights": [0.5]},
        # The load's x is normal with deviation 1.5: a fifth of it is above 1.26.
        {"weights": [0.5], "fails_above": 1.26},
        {"weights": [0.5], "work": 30},
        {"weights": [-1.0]},
        {"weights": [1.0]},
    ]
    for number, more in enumerate(options, start=1):
        draft = home / f"draft-{number}"
        inputs = [ModelInput(name="x", kind="numeric")]
        packages.write_package(draft, model=MODEL, inputs=inputs, keys_dir=home / "keys", **more)
        signing.verify(draft, home / "keys")
        run_id = tracking.start_run("story", f"v{number}", {})
        version = registry.register(draft, MODEL, run_id, {})
        assert version.version == str(number), version
        tracking.finish(run_id, "FINISHED")


def run(control: ControlClient, load: Load, candidate: str) -> dict[str, Any]:
    """One rollout of a candidate to its end; what it cost."""
    failed, before = len(load.failed), load.num_sent
    load.last_of.pop(candidate, None)
    began = time.monotonic()
    rollout = until_ended(control, control.start(PLANS[candidate]), 240.0)
    time.sleep(1.5)
    events = {event["kind"]: event for event in rollout["events"]}
    decided = datetime.fromisoformat(events["rollout.outcome_decided"]["at"]).timestamp()
    reached = events.get("rollout.step_reached", events["rollout.outcome_decided"])
    sides = rollout["variants"]
    return {
        "candidate": candidate,
        "state": rollout["state"],
        "because": rollout["because"],
        "failed": len(load.failed) - failed,
        "sent": load.num_sent - before,
        "decided_after_s": round(decided - datetime.fromisoformat(reached["at"]).timestamp(), 1),
        "decision_to_last_candidate_s": round(load.last_of.get(candidate, 0.0) - decided, 3),
        "candidate_requests": sides["candidate"]["requests"],
        "candidate_p50_ms": sides["candidate"]["latency_ms"]["p50"],
        "stable_p50_ms": sides["stable"]["latency_ms"]["p50"],
        "whole_s": round(time.monotonic() - began, 1),
    }


def puts(chain: Chain, control: ControlClient, load: Load) -> dict[str, Any]:
    """The whole configuration and an older one, in the middle of rollouts and after them."""
    newer = {**chain.args, "max_ongoing_requests": 150}
    older = dict(chain.args)

    def put(args: dict[str, Any]) -> None:
        chain.args = args
        chain.put()
        time.sleep(1.0)

    def with_traffic(rollout_id: str) -> None:
        while not control.rollout(rollout_id)["share_percent"]:
            time.sleep(0.1)

    failed = len(load.failed)
    rollout_id = control.start(PLANS[WORSE])
    with_traffic(rollout_id)
    put(newer)
    put(older)
    bad = until_ended(control, rollout_id, 240.0)
    events = {event["kind"]: event for event in bad["events"]}
    moved = datetime.fromisoformat(events["rollout.traffic_moved"]["at"]).timestamp()
    put(newer)
    put(older)
    time.sleep(8.0)
    late_s = load.last_of.get(WORSE, 0.0) - moved

    rollout_id = control.start(PLANS[GOOD])
    with_traffic(rollout_id)
    put(newer)
    put(older)
    good = until_ended(control, rollout_id, 240.0)
    time.sleep(3.0)
    return {
        "bad": bad["state"],
        "traffic_moved_to_last_candidate_s": round(late_s, 3),
        "good": good["state"],
        "stable": control.status()["models"][MODEL]["stable"],
        "failed": len(load.failed) - failed,
    }


def story(folder: Path, ports: list[int], runs: int) -> dict[str, Any]:
    """Bad candidates one after the other, then the PUTs."""
    from ray import serve

    from heliostat.control.application import application

    told: dict[str, Any] = {"runs": []}
    with Chain(folder, ports) as chain:
        uri = f"sqlite:///{folder}/mlflow.db"
        register(chain.home, uri)
        chain.put()
        settings = {"home": str(chain.home), "endpoint": chain.endpoint, "tracking_uri": uri}
        serve.run(application(settings), name="control", route_prefix="/v1")
        chain.wait(lambda: chain.ask("/v1/status")[0] == 200)
        chain.wait(lambda: chain.ask("/v2/health/live")[0] == 200)
        control = ControlClient(endpoint=chain.endpoint)
        control.deploy(MODEL, "1")
        load = Load(chain.endpoint, control)
        load.start()
        try:
            time.sleep(2.0)
            for candidate in itertools.islice(itertools.cycle((ERRS, SLOW, WORSE)), runs):
                told["runs"].append(run(control, load, candidate))
                print(json.dumps(told["runs"][-1]), file=sys.stderr, flush=True)
            told["puts"] = puts(chain, control, load)
            told["audit"] = control.audit()["tampered"]
        finally:
            load.stop()
            told["sent"], told["failed"] = load.num_sent, load.failed
            told["versions"] = dict(load.versions)
    return told


def main() -> None:
    """Run the story with a private Ray."""
    folder, ports = Path(sys.argv[1]), [int(port) for port in sys.argv[2].split(",")]
    # MLflow without a server keeps artifacts below the working directory.
    os.chdir(folder)
    print(json.dumps(story(folder, ports, int(sys.argv[3]))), flush=True)


if __name__ == "__main__":
    main()
