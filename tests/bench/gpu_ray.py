"""Ray Train with one GPU worker beside a plain script, killed, streamed; an actor that scores."""

from __future__ import annotations

import dataclasses
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heliostat.inference.columns import score
from heliostat.inference.predictor import Predictor
from heliostat.training.compute import Compute, Keep
from heliostat.training.fit import fit
from heliostat.training.rows import prepare
from tests.bench import gpu_models, gpu_place, gpu_serving, gpu_speed
from tests.bench.gpu_models import Size
from tests.bench.results import ROOT
from tests.local import training_models

CPU = torch.device("cpu")


def train(folder: Path, device: torch.device, size: Size) -> dict[str, Any]:
    """Rows per second of `fit` with one worker, and of the plain script, in turn."""
    recipe = _placed(gpu_models.tokens(size, gpu_speed.BF16), device)
    frame = gpu_models.made(size.tokens_rows)
    rows = prepare(recipe, frame, folder / "bare")
    ray = _start()
    rates: dict[str, list[float]] = {"platform": [], "bare": []}
    found: dict[str, Any] = {"ray": ray.__version__}
    about = {"steps": rows.num_train // recipe.batch_size, "batch_size": recipe.batch_size}
    try:
        for number in range(size.rounds):
            for kind in ("platform", "bare") if number % 2 == 0 else ("bare", "platform"):
                if kind == "bare":
                    rates[kind].append(gpu_speed.bare_process(folder, recipe, rows, device))
                    continue
                name = f"run-{number}"
                gpu_models.forget()
                fit(recipe, frame, tracking=None, run_id=name, storage_path=folder)
                rates[kind].append(gpu_place.rate(folder / name, recipe, rows))
                shutil.rmtree(folder / name / "checkpoints", ignore_errors=True)
            found["attention bfloat16"] = {**gpu_speed.compared(rates), **about}
            gpu_place.note(folder, found)
    finally:
        ray.shutdown()
    return found


def kinds(folder: Path, device: torch.device, size: Size) -> dict[str, Any]:
    """A worker killed in its epoch, rows from a stream, and an actor that scores."""
    del size
    frame = gpu_models.made(20_000)
    calm = gpu_models.small(Compute(), model=training_models.fragile, params={})
    rows = prepare(calm, frame, folder / "rows")
    gpu_place.train(calm, rows, folder / "here", gpu_place.alone(device))
    wanted = gpu_place.losses(folder / "here")
    ray = _start()
    try:
        found: dict[str, Any] = {"wanted": wanted}
        recipe = _placed(calm, device)
        for name, more in (
            ("calm", {}),
            ("killed", {"params": {"marker": str(folder / "died"), "fatal_step": 50}}),
            ("stream", {"feed": "stream"}),
        ):
            began = time.perf_counter()
            changed = dataclasses.replace(
                recipe, keep=Keep(every_steps=20, policy="last"), max_failures=2, **more
            )
            fit(changed, frame, tracking=None, run_id=name, storage_path=folder)
            losses = gpu_place.losses(folder / name)
            gpu_place.note(folder, found)
            found[name] = {
                "losses": losses,
                "gap": gpu_place.gap(losses, wanted),
                "seconds": round(time.perf_counter() - began, 1),
            }
        found["killed"]["died"] = (folder / "died").exists()
        found["actor"] = _actor(ray, folder, device)
    finally:
        ray.shutdown()
    return found


def _actor(ray: Any, folder: Path, device: torch.device) -> dict[str, Any]:
    """Rows scored by an actor with a GPU, beside the CPU's answers here."""
    recipe = gpu_models.wide(
        dataclasses.replace(gpu_models.REHEARSAL, wide={"hidden": 512, "blocks": 4}), Compute()
    )
    frame = gpu_models.made(200_000)
    package = gpu_serving.package(recipe, frame.head(6000), folder / "scored", device)

    class Scorer:
        def __init__(self, folder: str) -> None:
            self.predictor = gpu_serving.opened(Path(folder), device)

        def score(self, rows: Any) -> tuple[Any, float]:
            began = time.perf_counter()
            return score(self.predictor, rows), time.perf_counter() - began

    num_gpus = 1.0 if device.type == "cuda" else 0.0
    actor = ray.remote(Scorer).options(num_gpus=num_gpus).remote(str(package))
    # The first call loads and warms up.
    ray.get(actor.score.remote(frame.head(10_000)))
    answers, passed_s = ray.get(actor.score.remote(frame))
    some = frame.head(20_000)
    wanted = score(Predictor.load(package, None, device="cpu"), some)
    ray.kill(actor)
    gap = float(np.abs(answers[: some.height] - wanted).max())
    return {
        "rows": frame.height,
        "rows_per_s": round(frame.height / passed_s),
        "compared_rows": some.height,
        "largest_difference": gap,
        "held": gap <= gpu_serving.LIMIT,
    }


def _placed(recipe: Any, device: torch.device) -> Any:
    return dataclasses.replace(recipe, use_gpu=device.type == "cuda")


def _start() -> Any:
    """A Ray whose workers import this checkout and what this process imports."""
    import ray

    paths = [str(ROOT / "platform"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    ray.init(
        address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        num_cpus=max(2, len(os.sched_getaffinity(0))), object_store_memory=512 * 1024**2,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, paths))}},
    )  # fmt: skip
    return ray
