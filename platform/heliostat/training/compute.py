"""How a training runs: strategy, precision, memory, and what is kept on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from heliostat.config import require


@dataclass(frozen=True, kw_only=True, slots=True)
class Compute:
    """How the steps are computed; changes speed and memory, hardly the result."""

    strategy: Literal["ddp", "fsdp"] = "ddp"
    """With several workers: the whole network in each, or its weights and the optimizer's state
    split between them. Both run on CPU and GPU."""

    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """tf32: on GPUs, factors of products are rounded to 10 bits of mantissa; a CPU computes as with
    float32. bfloat16: autocast in the forward pass; weights and the optimizer stay float32."""

    accumulate: int = 1
    """A step's rows pass through the network in so many parts: less memory, the same step."""

    compile: bool = False
    """Compile the network with ``torch.compile``; needs a C++ compiler on CPU."""

    deterministic: bool = False
    """Refuse operations whose result may change from run to run. Together with feed="map", a
    training that was killed and continued ends with the very bits of one that was not."""

    cpus_per_worker: float = 1.0
    """Ray's CPUs for each worker, above 0; also its threads, at least one."""

    def __post_init__(self) -> None:
        require(self.accumulate >= 1, "train.compute.accumulate", self.accumulate, "must be > 0")
        require(
            self.cpus_per_worker > 0,
            "train.compute.cpus_per_worker",
            self.cpus_per_worker,
            "must be > 0",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Keep:
    """Which checkpoints are written, and which stay. One is written after each epoch anyway."""

    every_steps: int | None = None
    """Write one after so many steps, too: what a lost worker costs at most. None: epochs only."""

    policy: Literal["best", "last", "all"] = "best"
    """best: the epoch of least validation loss and the newest; last: the newest; all: each."""

    def __post_init__(self) -> None:
        require(
            self.every_steps is None or self.every_steps >= 1,
            "train.keep.every_steps",
            self.every_steps,
            "must be > 0 or null",
        )
