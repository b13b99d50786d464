"""The built-in loop in plain processes, for ``torchrun``: what a training has more of is Ray's.

Usage: ``torchrun --nproc-per-node 2 -m tests.bench.loop_train PREPARED FOLDER``; its metrics go to
FOLDER.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import torch
import torch.distributed

from heliostat.training import loop
from heliostat.training.session import Place, Session


def main() -> None:
    """Train."""
    recipe, rows = pickle.loads(Path(sys.argv[1]).read_bytes())
    torch.distributed.init_process_group("gloo")
    place = Place(
        rank=torch.distributed.get_rank(), world=torch.distributed.get_world_size(),
        device=torch.device("cpu"),
    )  # fmt: skip
    session = Session(recipe, rows, Path(sys.argv[2]), place)
    loop.train(session)
    session.close()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
