"""Set torch up for a recipe on one device, and tie a network to those of other workers.

Imports torch: only for Ray workers and tests.
"""

from __future__ import annotations

import os

import torch
from torch import nn

from heliostat.training.compute import Compute

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


def settle(compute: Compute, device: torch.device) -> None:
    """Apply what a recipe says to this process, before anything is computed."""
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(compute.cpus_per_worker)))
    if device.type == "cuda" and device.index is not None:
        # Random states, exchanges of plain values and counts of memory take the current device.
        torch.cuda.set_device(device)
    # On a CPU, too, torch may then take another kind of product: float32 stays what it says.
    faster = compute.precision == "tf32" and device.type == "cuda"
    torch.set_float32_matmul_precision("high" if faster else "highest")
    if compute.deterministic:
        # cuBLAS reads it when it is first used, and torch refuses products without it.
        os.environ.setdefault(_CUBLAS, ":4096:8")
        torch.use_deterministic_algorithms(mode=True)
        torch.backends.cudnn.benchmark = False


def spread(network: nn.Module, compute: Compute, device: torch.device, world: int) -> nn.Module:
    """Tie a network to its like in `world` workers; return what a training step calls."""
    if compute.strategy == "fsdp":
        _shard(network, device, world)
        return network
    devices = [device] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(network, device_ids=devices)


def _shard(network: nn.Module, device: torch.device, world: int) -> None:
    """Split the weights: each repeated block by itself, then what is left."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world,))
    for module in network.modules():
        if isinstance(module, nn.ModuleList):
            for block in module:
                fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
