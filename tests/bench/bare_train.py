"""The built-in loop's steps as a plain script, for ``torchrun``: no Ray, no log, no checkpoint.

Usage: ``torchrun --nproc-per-node 2 tests/bench/bare_train.py PREPARED``; prints rows per second.
"""

from __future__ import annotations

import pickle
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed
from torch import nn

from heliostat.training.network import build

WARM_STEPS = 500
"""Not counted: processes that Ray starts beside the first steps load what they need for seconds."""


def main() -> None:
    """Train and print."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    recipe, rows = pickle.loads(Path(sys.argv[1]).read_bytes())
    read = rows.read_train()
    numeric, categorical, label = (
        torch.tensor(part) for part in (read.numeric_BN, read.categorical_BC, read.label_B)
    )
    torch.manual_seed(recipe.seed)
    network = build(recipe, rows.inputs, rows.statistics)
    # One worker has nobody to exchange gradients with, here as in the platform's loop.
    model = nn.parallel.DistributedDataParallel(network) if world > 1 else network
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate)
    done, size, began = 0, recipe.batch_size, 0.0
    for epoch in range(recipe.epochs):
        order = np.random.default_rng((recipe.seed, epoch)).permutation(len(label))
        for start in range(0, len(label), size):
            batch = order[start : start + size]
            index = torch.from_numpy(np.ascontiguousarray(batch[rank::world]))
            output = model(numeric[index], categorical[index])
            loss = nn.functional.binary_cross_entropy_with_logits(
                output, label[index], reduction="sum"
            )
            optimizer.zero_grad(set_to_none=True)
            (loss * world / len(batch)).backward()
            optimizer.step()
            done += 1
            if done == WARM_STEPS:
                began, rows_before = time.perf_counter(), epoch * len(label) + start + len(batch)
    if rank == 0:
        passed_s = time.perf_counter() - began
        print((recipe.epochs * len(label) - rows_before) / passed_s, flush=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
