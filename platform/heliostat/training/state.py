"""Weights, optimizer and random numbers of a running training, to disk and back. Imports torch.

The form on disk is the same for one worker and many, split or not, so that a training may go on
with another number of workers.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.distributed
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

WEIGHTS = "weights.safetensors"
_OPTIMIZER = "optimizer.pt"
_RANDOM = "random.pt"

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def gather(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Collect everything on the first worker; all workers must call it."""
    return {
        "weights": get_model_state_dict(network, options=_WHOLE),
        "optimizer": get_optimizer_state_dict(network, optimizer, options=_WHOLE),
        "random": gathered(random_state()),
    }


def write(folder: Path, state: dict[str, Any]) -> None:
    """Write what `gather` collected."""
    weights = {name: value.contiguous() for name, value in state["weights"].items()}
    safetensors.torch.save_file(weights, folder / WEIGHTS)
    torch.save(state["optimizer"], folder / _OPTIMIZER)
    torch.save(state["random"], folder / _RANDOM)


def restore(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer, rank: int) -> bool:
    """Load what `write` wrote; all workers must call it.

    Returns:
        Whether this worker's random numbers go on too; not for one more worker than before.
    """
    options = StateDictOptions(full_state_dict=True)
    # weights_only: a checkpoint may hold tensors and numbers, never code.
    weights: dict[str, Any] = dict(safetensors.torch.load_file(folder / WEIGHTS))
    set_model_state_dict(network, weights, options=options)
    set_optimizer_state_dict(
        network, optimizer, torch.load(folder / _OPTIMIZER, weights_only=True), options=options
    )
    states = torch.load(folder / _RANDOM, weights_only=True)
    if rank >= len(states):
        return False
    _set_random_state(states[rank])
    return True


def gathered(value: Any) -> list[Any]:
    """One plain value from each worker, in the order of their ranks, in every worker."""
    if not torch.distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def random_state() -> dict[str, Any]:
    """States of torch, NumPy and Python, as tensors and numbers."""
    kind, keys, place, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002 - users' own code
    version, words, leftover = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [kind, torch.from_numpy(np.asarray(keys, np.int64)), place, has_gauss, gauss],
        "python": [version, list(words), leftover],
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, words, leftover = state["python"]
    random.setstate((version, tuple(words), leftover))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def seed(*words: int) -> None:
    """Seed torch, NumPy and Python from some numbers."""
    made = np.random.SeedSequence(words).generate_state(3, np.uint64)
    # The low 63 bits: torch takes an int64.
    torch.manual_seed(int(made[0]) >> 1)
    np.random.seed(int(made[1]) >> 32)  # noqa: NPY002
    random.seed(int(made[2]))
