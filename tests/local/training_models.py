"""Network factories that workers of the training tests import by name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from heliostat.errors import ConfigError
from heliostat.registry.package import ModelInput
from heliostat.training import models


def fragile(inputs: Sequence[ModelInput], *, marker: str = "", fatal_step: int = 0) -> Any:
    """The usual network, in a process that dies once in the middle of a training step."""
    network = models.tabular(inputs, hidden=16, blocks=1)
    steps = 0

    def count(module: Any, arguments: Any) -> None:
        nonlocal steps
        if not (marker and module.training):
            return
        steps += 1
        if steps == fatal_step:
            try:
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
            os._exit(1)

    network.register_forward_pre_hook(count)
    return network


def counting(inputs: Sequence[ModelInput], *, folder: str) -> Any:
    """The usual network; each process writes how many rows it learned from."""
    network = models.tabular(inputs, hidden=16, blocks=1)
    rows = 0

    def count(module: Any, arguments: Any) -> None:
        nonlocal rows
        if module.training:
            rows += len(arguments[0])
            Path(folder, f"rows-{os.getpid()}").write_text(str(rows), encoding="utf-8")

    network.register_forward_pre_hook(count)
    return network


def broken(inputs: Sequence[ModelInput]) -> Any:
    """The usual network, which raises in the second worker's twentieth step."""
    import torch.distributed

    network = models.tabular(inputs, hidden=16, blocks=1)
    steps = 0

    def count(module: Any, arguments: Any) -> None:
        nonlocal steps
        steps += 1
        if steps == 20 and torch.distributed.get_rank() == 1:
            raise ValueError("broken in the second worker")

    network.register_forward_pre_hook(count)
    return network


def known(inputs: Sequence[ModelInput], *, folder: str, **params: Any) -> Any:
    """The usual network; its process leaves its id, so that it can be killed."""
    Path(folder, f"worker-{os.getpid()}").touch()
    return models.tabular(inputs, **params)


def impossible(inputs: Sequence[ModelInput], **params: Any) -> Any:
    """A factory that refuses its parameters."""
    raise ConfigError("train.params", params, "must be empty", breaks=Path(__file__).stem)


def slow(inputs: Sequence[ModelInput], *, folder: str, step_s: float) -> Any:
    """The usual network; its process notes how many there are, and a step takes its time."""
    import time

    import torch.distributed

    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    Path(folder, f"{time.time_ns()}-{os.getpid()}").write_text(str(world), encoding="utf-8")
    network = models.tabular(inputs, hidden=8, blocks=1)

    def wait(module: Any, arguments: Any) -> None:
        if module.training:
            time.sleep(step_s)

    network.register_forward_pre_hook(wait)
    return network
