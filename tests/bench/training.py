"""Proofs and figures of training: `make prove-training` and `make bench-training`.

proofs: five workers killed at random steps; a driver killed, cancelled, and a worker that raises;
a search of eight trials whose driver is killed twice. figures: rows per second beside a plain
script under torchrun, the cost of logging each step, and how busy a stream keeps its workers.
Writes ``tests/bench/results/training.json``; a part that is not asked for keeps its figures.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pickle
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from heliostat.registry.tracking import Tracking
from heliostat.training import loop
from heliostat.training.checkpoints import FOLDER, Checkpoints
from heliostat.training.compute import Compute, Keep
from heliostat.training.fit import fit
from heliostat.training.recipe import Validation
from heliostat.training.rows import prepare
from heliostat.training.session import Place, Session
from heliostat.training.spool import MetricSpool
from tests.bench import results
from tests.bench.bare_train import WARM_STEPS
from tests.bench.training_driver import RECIPE, ROOT, ROWS, start_ray
from tests.local import training_models
from tests.local.training_group import made_rows

_PATIENCE_S = 900
"""No figure depends on it: how long a part waits on a machine that has other work too."""


def main() -> int:
    """Run the parts, write the results file; 0 if every proof held."""
    parts: dict[str, Callable[[Path, int], dict[str, Any]]] = {
        "kills": kills,
        "ends": ends,
        "search": search,
        "throughput": throughput,
        "logging": logging,
        "stream": stream,
    }
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=list(parts), default=list(parts))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    path = ROOT / "tests" / "bench" / "results" / "training.json"
    figures = json.loads(path.read_text())["parts"] if path.exists() else {}
    for name in options.parts:
        folder = Path(tempfile.mkdtemp(prefix="ht-", dir="/tmp"))
        began = time.monotonic()
        try:
            figures[name] = {**parts[name](folder, options.rounds), "commit": results.commit()}
            figures[name]["minutes"] = round((time.monotonic() - began) / 60, 1)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(name, json.dumps(figures[name]), flush=True)
        results.write(
            "training", "make prove-training bench-training", rounds=options.rounds,
            figures={"parts": figures, "load_average": os.getloadavg()[0]},
        )  # fmt: skip
    return 0 if all(figures[name].get("held", True) for name in options.parts) else 1


def kills(folder: Path, rounds: int) -> dict[str, Any]:
    """SIGKILL a random worker at five random steps; compare with a calm training."""
    del rounds
    ray = start_ray()
    rows, lost = made_rows(ROWS), []
    ends = {}
    for name in ("calm", "rough"):
        pids = folder / f"{name}-pids"
        pids.mkdir()
        recipe = dataclasses.replace(
            RECIPE, model=training_models.known, params={**RECIPE.params, "folder": str(pids)}
        )
        killer = threading.Thread(target=_kill_five, args=(folder / name, pids, lost), daemon=True)
        if name == "rough":
            killer.start()
        fitted = fit(recipe, rows, tracking=None, run_id=name, storage_path=folder)
        ends[name] = (fitted.weights.read_bytes(), fitted.epochs)
    ray.shutdown()
    same = ends["calm"] == ends["rough"]
    return {
        "kills": len(lost),
        "steps_lost": lost,
        "checkpoint_every_steps": RECIPE.keep.every_steps,
        "bit_equal": same,
        "held": same and len(lost) == 5 and max(lost) <= (RECIPE.keep.every_steps or 0),
    }


def _kill_five(folder: Path, pids: Path, lost: list[int]) -> None:
    rng = random.Random(7)
    total = RECIPE.epochs * -(-ROWS * 9 // 10 // RECIPE.batch_size)
    for step in sorted(rng.sample(range(30, total - 10), 5)):
        while _last_step(folder) < step:
            time.sleep(0.02)
        alive = [
            pid
            for pid in (int(path.name.split("-")[1]) for path in pids.iterdir())
            if Path(f"/proc/{pid}").exists()
        ]
        os.kill(rng.choice(alive), signal.SIGKILL)
        time.sleep(0.5)
        newest = Checkpoints(folder / FOLDER, Keep()).newest()
        lost.append(_last_step(folder) - (newest.position.total if newest else 0))


def _last_step(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    steps = [line for line in lines if '"series": "step"' in line and line.endswith("}")]
    return int(json.loads(steps[-1])["step"]) if steps else 0


def ends(folder: Path, rounds: int) -> dict[str, Any]:
    """Kill a driver, cancel it, raise in rank 1: how each MLflow run ended."""
    del rounds
    found = {}
    for name, kind, sent in (
        ("killed", "fit", signal.SIGKILL),
        ("cancelled", "fit", signal.SIGTERM),
        ("raised", "raise", None),
    ):
        place = folder / name
        place.mkdir()
        driver = _driver(kind, place)
        assert driver.stdout is not None
        run_id = driver.stdout.readline().strip()
        if sent is not None:
            _until(lambda place=place, run_id=run_id: _last_step(place / run_id) > 30)
            driver.send_signal(sent)
        driver.wait()
        tracking = Tracking(f"sqlite:///{place / 'mlflow.db'}")
        _until(lambda tracking=tracking, run_id=run_id: tracking.status(run_id) != "RUNNING")
        found[name] = {"status": tracking.status(run_id), "points_lost": _waiting(place / run_id)}
    statuses = [found[name]["status"] for name in ("killed", "cancelled", "raised")]
    lost = sum(found[name]["points_lost"] for name in ("killed", "cancelled", "raised"))
    return {**found, "held": statuses == ["KILLED", "KILLED", "FAILED"] and not lost}


def _waiting(folder: Path) -> int:
    """Points that MLflow never gets: workers and the warden have a minute after the run's end."""
    until_s = time.monotonic() + 60
    while MetricSpool(folder).num_waiting() and time.monotonic() < until_s:
        time.sleep(0.5)
    return MetricSpool(folder).num_waiting()


def search(folder: Path, rounds: int) -> dict[str, Any]:
    """Eight trials; the driver is killed after the second and the fifth that ended."""
    del rounds
    rerun = 0
    for wanted in (2, 5):
        driver = _driver("search", folder)
        _until(lambda wanted=wanted: len(_done(folder)) >= wanted)
        driver.kill()
        driver.wait()
        before = _done(folder)
        time.sleep(5)
    driver = _driver("search", folder)
    out, _ = driver.communicate()
    # Tune prints too; the run's id comes last.
    parent_id = out.split()[-1]
    after = _done(folder)
    rerun = sum(after[name] != noted for name, noted in before.items())
    tracking = Tracking(f"sqlite:///{folder / 'mlflow.db'}")
    statuses = [
        tracking.status(json.loads(path.read_text())["run"])
        for path in folder.glob("search/trials/*/run.json")
    ]
    parent = tracking.status(parent_id)
    return {
        "driver_kills": 2,
        "parents": 1,
        "children": len(statuses),
        "running": [parent, *statuses].count("RUNNING"),
        "parent": parent,
        "statuses": sorted(statuses),
        "exit_code": driver.returncode,
        "finished_trials_run_again": rerun,
        "held": driver.returncode == 0
        and len(statuses) == 8
        and rerun == 0
        and set(statuses) | {parent} == {"FINISHED"},
    }


def _done(folder: Path) -> dict[str, int]:
    """Trials that ended, each with the bytes of metrics that it wrote."""
    return {
        path.parent.name: sum(lines.stat().st_size for lines in path.parent.glob("*/metrics.jsonl"))
        for path in folder.glob("search/trials/*/done.json")
    }


def throughput(folder: Path, rounds: int) -> dict[str, Any]:
    """Rows per second after the first steps: here, the loop alone, and a plain script, in turn.

    With two workers, and with one. The plain script holds no rows back for validation, so neither
    does the recipe; the checkpoints at the ends of epochs, which the script does not write, count.
    """
    ray = start_ray()
    found = {
        f"{num_workers}_workers": _compared(folder / str(num_workers), num_workers, rounds)
        for num_workers in (2, 1)
    }
    ray.shutdown()
    return found


def _compared(folder: Path, num_workers: int, rounds: int) -> dict[str, Any]:
    recipe = dataclasses.replace(
        RECIPE, keep=Keep(), compute=Compute(), log_every_steps=10, epochs=4,
        validation=Validation(share=0.0), num_workers=num_workers,
    )  # fmt: skip
    folder.mkdir()
    rows = made_rows(8 * ROWS)
    prepared = prepare(recipe, rows, folder / "rows")
    given = folder / "given.pickle"
    given.write_bytes(pickle.dumps((recipe, prepared)))
    rates: dict[str, list[float]] = {"platform": [], "loop": [], "torchrun": []}
    order = list(rates)
    for number in range(rounds):
        for kind in order if number % 2 == 0 else order[::-1]:
            place = folder / f"{kind}-{number}"
            place.mkdir()
            if kind == "torchrun":
                rate = float(_torchrun("bare_train", num_workers, given).splitlines()[-1])
            elif kind == "loop":
                _torchrun("loop_train", num_workers, given, place)
                rate = _rate(place, recipe.batch_size)
            else:
                fit(recipe, rows, tracking=None, run_id=place.name, storage_path=folder)
                rate = _rate(place, recipe.batch_size)
            rates[kind].append(rate)
    ratios = {
        kind: [a / b for a, b in zip(rates[kind], rates["torchrun"], strict=True)]
        for kind in ("platform", "loop")
    }
    return {
        "rows_per_s": {kind: [round(rate) for rate in found] for kind, found in rates.items()},
        **{
            f"{kind}_to_torchrun": round(statistics.median(found), 3)
            for kind, found in ratios.items()
        },
        **{
            f"{kind}_to_torchrun_rounds": [round(ratio, 3) for ratio in found]
            for kind, found in ratios.items()
        },
    }


def _torchrun(program: str, num_workers: int, *arguments: Path) -> str:
    return subprocess.check_output(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            "--nproc-per-node", str(num_workers), "-m", f"tests.bench.{program}",
            *map(str, arguments),
        ],
        cwd=ROOT, text=True, env=_environment(),
    )  # fmt: skip


def _rate(folder: Path, batch_size: int) -> float:
    """Rows per second between the first point after warming up and the last, epochs' ends too."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    points = [point for point in map(json.loads, lines) if point["series"] == "step"]
    points = [point for point in points if point["step"] >= WARM_STEPS]
    first, last = points[0], points[-1]
    passed_s = (last["at_ms"] - first["at_ms"]) / 1000
    return float((last["step"] - first["step"]) * batch_size / passed_s)


def logging(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds of the same training with a point for each step and without, in turn."""
    import torch

    recipe = dataclasses.replace(RECIPE, num_workers=1, keep=Keep(), compute=Compute(), epochs=2)
    prepared = prepare(recipe, made_rows(2 * ROWS), folder / "rows")
    seconds: dict[int, list[float]] = {0: [], 1: []}
    for number in range(2 * rounds + 1):
        for every in (0, 1) if number % 2 == 0 else (1, 0):
            place = folder / f"{number}-{every}"
            place.mkdir()
            session = Session(
                dataclasses.replace(recipe, log_every_steps=every), prepared, place,
                Place(rank=0, world=1, device=torch.device("cpu")),
            )  # fmt: skip
            began = time.process_time()
            loop.train(session)
            session.close()
            # The first pair warms up.
            if number:
                seconds[every].append(time.process_time() - began)
    ratios = [with_ / without for without, with_ in zip(seconds[0], seconds[1], strict=True)]
    return {
        "cpu_seconds": {str(key): [round(s, 3) for s in value] for key, value in seconds.items()},
        "cost_percent": round(100 * (statistics.median(ratios) - 1), 2),
        "cost_percent_rounds": [round(100 * (ratio - 1), 2) for ratio in ratios],
    }


def stream(folder: Path, rounds: int) -> dict[str, Any]:
    """Share of time in which a worker fed by Ray Data does not wait for rows."""
    del rounds
    # As many logical CPUs as reads and workers want; the cores are the machine's.
    ray = start_ray(num_cpus=3)
    recipe = dataclasses.replace(
        RECIPE, feed="stream", keep=Keep(), compute=Compute(), epochs=3,
        params={"hidden": 256, "blocks": 3, "dropout": 0.1},
    )  # fmt: skip
    fit(recipe, made_rows(4 * ROWS), tracking=None, run_id="s", storage_path=folder)
    ray.shutdown()
    lines = (folder / "s" / "metrics.jsonl").read_text().splitlines()
    points = [point for point in map(json.loads, lines) if point["series"] == "step"]
    steps = len(points) // recipe.epochs
    busy = []
    for number in range(recipe.epochs):
        epoch = points[number * steps : (number + 1) * steps]
        passed_s = (epoch[-1]["at_ms"] - epoch[0]["at_ms"]) / 1000
        waited_s = epoch[-1]["metrics"]["step/waited_s"] - epoch[0]["metrics"]["step/waited_s"]
        busy.append(round(100 * (1 - waited_s / passed_s), 1))
    return {"busy_percent": min(busy), "busy_percent_epochs": busy}


def _driver(kind: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.bench.training_driver", kind, str(folder)],
        # MLflow without a server puts artifacts below the working folder.
        cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True, env=_environment(),
    )  # fmt: skip


def _environment() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _until(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + _PATIENCE_S
    while not holds():
        if time.monotonic() > until_s:
            raise SystemExit("waited too long")
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
