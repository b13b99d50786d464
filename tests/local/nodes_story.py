"""A training on machines that come and go: ``python -m tests.local.nodes_story FOLDER``.

Two nodes of one CPU each hold a worker. One is announced to go, and goes; the training carries on
with one worker, and takes a second one when a node comes. Prints what came of it as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from heliostat.training.checkpoints import FOLDER, Checkpoints
from heliostat.training.compute import Keep
from heliostat.training.fit import FitResult, fit
from heliostat.training.recipe import TrainRecipe
from tests.local import training_models
from tests.local.training_group import made_rows

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 12
_PATIENCE_S = 300

RECIPE = TrainRecipe(
    label="y",
    numeric=("a", "b"),
    categorical=("c",),
    model=training_models.slow,
    epochs=EPOCHS,
    batch_size=20,
    num_workers=2,
    min_workers=1,
    resize_check_s=2.0,
    log_every_steps=1,
    max_failures=3,
    keep=Keep(),
)


class Watched:
    """What a training leaves in its folder, from outside."""

    def __init__(self, folder: Path) -> None:
        self._run = folder / "run"
        self._notes = folder / "notes"

    def steps(self) -> list[int]:
        """Steps of which a point is there."""
        path = self._run / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line)["step"] for line in lines if '"series": "step"' in line]

    def worlds(self) -> list[int]:
        """Number of workers at each beginning, the first one first."""
        return [int(path.read_text() or 0) for path in sorted(self._notes.iterdir())]

    def kept(self) -> int:
        """Steps that the newest checkpoint holds."""
        newest = Checkpoints(self._run / FOLDER, RECIPE.keep).newest()
        return newest.position.total if newest else 0


def main() -> None:
    """Run the story."""
    folder = Path(sys.argv[1])
    (folder / "notes").mkdir()
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": 256 * 1024**2},
    )
    try:
        _go(cluster, folder)
    finally:
        cluster.shutdown()


def _go(cluster: Any, folder: Path) -> None:
    import ray

    ray.init(
        address=cluster.address, log_to_driver=False, logging_level="ERROR",
        runtime_env={"env_vars": {"PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}"}},
    )  # fmt: skip
    nodes = [_node(cluster) for _ in range(2)]
    watched, results = Watched(folder), []
    recipe = _with_params(folder)

    def train() -> None:
        results.append(
            fit(recipe, made_rows(600), tracking=None, run_id="run", storage_path=folder)
        )

    thread = threading.Thread(target=train, daemon=True)
    thread.start()
    told: dict[str, Any] = {}
    _until(lambda: len(watched.steps()) > 5)
    told["workers_at_first"] = watched.worlds()
    _announce(nodes[1].node_id)
    # An epoch has 27 steps; a checkpoint in its middle is the answer to the announcement.
    _until(lambda: watched.kept() % 27 != 0)
    told["kept_before_it_went"] = watched.kept()
    cluster.remove_node(nodes[1], allow_graceful=False)
    _until(lambda: watched.worlds()[-1] == 1)
    told["steps_lost"] = max(watched.steps()) - watched.kept()
    gone_at = len(watched.steps())
    _until(lambda: len(watched.steps()) > gone_at)
    nodes.append(_node(cluster))
    _until(lambda: watched.worlds()[-1] == 2)
    thread.join(timeout=_PATIENCE_S)
    fitted: FitResult = results[0]
    told["workers"] = watched.worlds()
    told["epochs"] = len(fitted.epochs)
    told["steps_once_each"] = watched.steps() == list(range(1, EPOCHS * 27 + 1))
    told["losses"] = [epoch["validation_loss"] for epoch in fitted.epochs]
    print(json.dumps(told), flush=True)
    ray.shutdown()


def _with_params(folder: Path) -> TrainRecipe:
    import dataclasses

    return dataclasses.replace(RECIPE, params={"folder": str(folder / "notes"), "step_s": 0.25})


def _node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=256 * 1024**2)


def _announce(node_id: str) -> None:
    """What a cloud's notice of a reclaimed machine becomes in Ray."""
    import ray
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    client = GcsClient(address=ray.get_runtime_context().gcs_address)
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int((time.time() + _PATIENCE_S) * 1000)
    accepted, why = client.drain_node(node_id, reason, "reclaimed", deadline_ms)
    assert accepted, why


def _until(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + _PATIENCE_S
    while not holds():
        if time.monotonic() > until_s:
            raise TimeoutError("the story does not go on")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
