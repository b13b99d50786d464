"""A GPU learns what a CPU learns, whole, in parts, split, killed and continued."""

from __future__ import annotations

import dataclasses
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed

from heliostat.testing.ports import free_ports
from heliostat.training.compute import Compute, Keep
from heliostat.training.recipe import TrainRecipe
from heliostat.training.rows import PreparedRows, prepare
from heliostat.training.session import Place
from tests.bench import gpu_models, gpu_place
from tests.bench.gpu_models import Size

CPU = torch.device("cpu")
ROWS = 20_000
_PATIENCE_S = 100
_STRATEGIES: tuple[Literal["ddp"], Literal["fsdp"]] = ("ddp", "fsdp")
LIMITS = {
    "float32": 1e-4, "tf32": 1e-3, "bfloat16": 1e-2, "accumulate": 1e-3, "float32 attention": 1e-3,
    "nccl ddp": 1e-4, "nccl fsdp": 1e-4, "gloo ddp": 1e-3,
}  # fmt: skip
"""Largest relative difference of any epoch's losses that is allowed."""


def precision(folder: Path, device: torch.device, size: Size) -> dict[str, Any]:
    """Losses on the device beside those of the CPU in float32, and in four parts."""
    rows = _prepared(folder)
    calm = gpu_models.small(Compute())
    gpu_place.train(calm, rows, folder / "cpu", gpu_place.alone(CPU))
    wanted = gpu_place.losses(folder / "cpu")
    found: dict[str, Any] = {"cpu": wanted}
    tried: dict[str, Compute] = {
        "float32": Compute(), "tf32": Compute(precision="tf32"),
        "bfloat16": Compute(precision="bfloat16"), "accumulate": Compute(accumulate=4),
    }  # fmt: skip
    for name, compute in tried.items():
        recipe = dataclasses.replace(calm, compute=compute)
        gpu_place.train(recipe, rows, folder / name, gpu_place.alone(device))
        found[name] = _compared(name, gpu_place.losses(folder / name), wanted)
    recipe = gpu_models.small(
        Compute(), model=gpu_models.attention, epochs=1,
        params={"width": 16, "layers": 2, "heads": 4},
    )  # fmt: skip
    for name, where in (("attention-cpu", CPU), ("attention", device)):
        gpu_place.train(recipe, rows, folder / name, gpu_place.alone(where))
    found["float32 attention"] = _compared(
        "float32 attention",
        gpu_place.losses(folder / "attention"),
        gpu_place.losses(folder / "attention-cpu"),
    )
    return found


def killed(folder: Path, device: torch.device, size: Size) -> dict[str, Any]:
    """SIGKILL between checkpoints, twice; go on in new processes; compare with a calm training."""
    rows = _prepared(folder)
    tried = {
        "deterministic": Compute(deterministic=True),
        "deterministic bfloat16": Compute(deterministic=True, precision="bfloat16"),
        "usual": Compute(),
    }
    with ThreadPoolExecutor() as pool:
        ends = pool.map(
            lambda item: _killed(folder / item[0], rows, item[1], device), tried.items()
        )
        return dict(zip(tried, ends, strict=True))


def _killed(
    folder: Path, rows: PreparedRows, compute: Compute, device: torch.device
) -> dict[str, Any]:
    # Dropout and hidden categories: the GPU's random numbers must go on, too.
    recipe = gpu_models.small(
        compute, params={"hidden": 64, "blocks": 2, "dropout": 0.2}, unknown_ratio=0.05,
        keep=Keep(every_steps=20, policy="last"),
    )  # fmt: skip
    calm, rough = folder / "calm", folder / "rough"
    codes = [
        _process(recipe, rows, place, device, fatal)
        for place, fatal in ((calm, None), (rough, 30), (rough, 75), (rough, None))
    ]
    equal = gpu_place.weights(recipe, calm) == gpu_place.weights(recipe, rough)
    return {
        "exit_codes": codes,
        "bit_equal": equal,
        "gap": gpu_place.gap(gpu_place.losses(rough), gpu_place.losses(calm)),
        "held": codes == [0, -9, -9, 0] and (equal or not compute.deterministic),
    }


def strategies(folder: Path, device: torch.device, size: Size) -> dict[str, Any]:
    """DDP and FSDP: one worker under NCCL, two that share the device under gloo."""
    rows = _prepared(folder)
    calm = gpu_models.small(Compute(), keep=Keep(every_steps=20, policy="last"))
    gpu_place.train(calm, rows, folder / "one", gpu_place.alone(device))
    wanted = gpu_place.losses(folder / "one")
    found: dict[str, Any] = {"one": wanted}
    one = "nccl" if device.type == "cuda" else "gloo"
    tried = {
        f"{name} {strategy}": (backend, world, strategy)
        for name, backend, world in (("nccl", one, 1), ("gloo", "gloo", 2))
        for strategy in _STRATEGIES
        # Under gloo the split of weights on a GPU ends the process: torch 2.11, SIGSEGV.
        if world == 1 or strategy == "ddp"
    }
    with ThreadPoolExecutor() as pool:
        ends = pool.map(
            lambda item: _strategy(folder, rows, calm, device, item[0], *item[1]), tried.items()
        )
        found |= zip(tried, ends, strict=True)
    for label in tried:
        if found[label]["exit_codes"][1] == [0] * found[label]["workers"]:
            place = folder / label.replace(" ", "-")
            found[label] |= _compared(label, gpu_place.losses(place), wanted)
    return found


def _strategy(
    folder: Path, rows: PreparedRows, calm: TrainRecipe, device: torch.device, label: str,
    backend: str, world: int, strategy: Literal["ddp", "fsdp"],
) -> dict[str, Any]:  # fmt: skip
    """Train until one dies in the second epoch, and on to the end."""
    recipe = dataclasses.replace(calm, compute=Compute(strategy=strategy), num_workers=world)
    place = folder / label.replace(" ", "-")
    codes = [_group(recipe, rows, place, device, backend, fatal) for fatal in (75, None)]
    return {
        "workers": world, "backend": backend, "exit_codes": codes, "held": codes[1] == [0] * world
    }  # fmt: skip


def _compared(
    name: str, found: list[dict[str, float]], wanted: list[dict[str, float]]
) -> dict[str, Any]:
    gap = gpu_place.gap(found, wanted)
    return {"losses": found, "gap": gap, "limit": LIMITS[name], "held": gap <= LIMITS[name]}


def _prepared(folder: Path) -> PreparedRows:
    return prepare(gpu_models.small(Compute()), gpu_models.made(ROWS), folder / "rows")


def _process(
    recipe: TrainRecipe, rows: PreparedRows, folder: Path, device: torch.device, fatal: int | None
) -> int:
    """Exit code of a training in a process of its own."""
    process = multiprocessing.get_context("spawn").Process(
        target=_train_alone, args=(recipe, rows, folder, device, fatal)
    )
    process.start()
    process.join()
    return process.exitcode or 0


def _train_alone(
    recipe: TrainRecipe, rows: PreparedRows, folder: Path, device: torch.device, fatal: int | None
) -> None:
    gpu_place.train(recipe, rows, folder, gpu_place.alone(device), fatal=fatal)


def _group(
    recipe: TrainRecipe, rows: PreparedRows, folder: Path, device: torch.device, backend: str,
    fatal: int | None,
) -> list[int]:  # fmt: skip
    """Exit codes of a group of workers, whose last one may die; then all end."""
    (port,) = free_ports(1)
    spawn = multiprocessing.get_context("spawn")
    group = [
        spawn.Process(target=_work, args=(recipe, rows, folder, device, backend, rank, port, fatal))
        for rank in range(recipe.num_workers)
    ]
    for process in group:
        process.start()
    if fatal is not None:
        group[-1].join(_PATIENCE_S)
        for process in group:
            process.kill()
    for process in group:
        process.join(_PATIENCE_S)
        process.kill()
    return [process.exitcode or 0 for process in group]


def _work(
    recipe: TrainRecipe, rows: PreparedRows, folder: Path, device: torch.device, backend: str,
    rank: int, port: int, fatal: int | None,
) -> None:  # fmt: skip
    world = recipe.num_workers
    if device.type == "cuda":
        torch.cuda.set_device(0)
    torch.distributed.init_process_group(
        backend, init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
    )
    gpu_place.train(
        recipe, rows, folder, Place(rank=rank, world=world, device=device),
        fatal=fatal if rank == world - 1 else None, spreads=True,
    )  # fmt: skip
    torch.distributed.destroy_process_group()
