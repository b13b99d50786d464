"""One worker's side of a training: network, rows, checkpoints and metrics. Imports torch.

The built-in loop uses it, and so may an own one that a recipe names as `loop`:

    def loop(session):
        network, model = session.network()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        start = session.restore(network, optimizer)
        feed = session.feed()
        for epoch in range(start.epoch, session.recipe.epochs):
            for step in feed.epoch(epoch, 0):
                ...
            session.end_epoch(epoch, {"train_loss": ...}, network, optimizer)
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed
from torch import Tensor, nn

from heliostat.training import settle, state
from heliostat.training.checkpoints import FOLDER, Checkpoint, Checkpoints, Position
from heliostat.training.feed import Held, MappedFeed, Rows, StreamedFeed
from heliostat.training.network import build
from heliostat.training.recipe import TrainRecipe
from heliostat.training.rows import PreparedRows
from heliostat.training.spool import EPOCH, STEP, SYSTEM, MetricLog
from heliostat.training.usage import Usage

_SYSTEM_EVERY_S = 5.0
_LEAVING_FIRST_STEPS, _LEAVING_EVERY_S = 5, 2.0
_POINTS_PER_FLUSH = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a worker runs, and its two words with whoever started it."""

    rank: int
    world: int
    device: torch.device

    report: Callable[[dict[str, float]], None] = lambda _: None
    """Told the metrics of each epoch, in all workers."""

    leaving: Callable[[], bool] = lambda: False
    """Whether a machine is about to go; all workers ask together."""

    shard: Any = None
    """Ray Data's iterator over this worker's part, for feed="stream"."""


class Session:
    """One worker of one training."""

    def __init__(self, recipe: TrainRecipe, rows: PreparedRows, folder: Path, place: Place) -> None:
        """Begin in `folder`, which all workers share."""
        self.recipe, self.rows, self.place = recipe, rows, place
        self._checkpoints = Checkpoints(folder / FOLDER, recipe.keep)
        self._log = MetricLog(folder) if place.rank == 0 else None
        self._waiting: list[tuple[int, int, dict[str, Tensor | float]]] = []
        self._usage = Usage(time.monotonic(), time.process_time())
        self._noted_s = time.monotonic()
        self._ask_at: int | None = None
        self._asked_step, self._asked_s = 0, 0.0
        settle.settle(recipe.compute, place.device)

    def network(self) -> tuple[nn.Module, nn.Module]:
        """Build the recipe's network; return it, and what to call in a training step."""
        torch.manual_seed(self.recipe.seed)
        network: nn.Module = build(self.recipe, self.rows.inputs, self.rows.statistics)
        network = network.to(self.place.device)
        if self.recipe.compute.compile:
            # In place: the names of the weights stay.
            network.compile()
        return network, self._spread(network)

    def _spread(self, network: nn.Module) -> nn.Module:
        """Tie the network to those of other workers, if any; return what a step calls."""
        if self.place.world == 1:
            return network
        return settle.spread(network, self.recipe.compute, self.place.device, self.place.world)

    def feed(self) -> MappedFeed | StreamedFeed:
        """Open the rows to learn from."""
        if self.recipe.feed == "stream":
            return StreamedFeed(
                self.recipe, self.rows, shard=self.place.shard, world=self.place.world,
                device=self.place.device,
            )  # fmt: skip
        return MappedFeed(
            self.recipe, self.rows, rank=self.place.rank, world=self.place.world,
            device=self.place.device,
        )  # fmt: skip

    def held(self) -> Held:
        """Open the rows that are held back."""
        return Held(self.rows, "validation", self.place.device)

    def loss(self, output_B: Tensor, label_B: Tensor) -> Tensor:
        """The loss of each row, shape (B,)."""
        if self.recipe.loss is not None:
            return cast("Tensor", self.recipe.loss(output_B, label_B))
        if self.recipe.task == "binary":
            return nn.functional.binary_cross_entropy_with_logits(
                output_B, label_B, reduction="none"
            )
        return nn.functional.mse_loss(output_B, label_B, reduction="none")

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The recipe's precision, for the forward pass."""
        if self.recipe.compute.precision != "bfloat16":
            return contextlib.nullcontext()
        return torch.autocast(self.place.device.type, dtype=torch.bfloat16)

    def sum(self, value: Tensor) -> float:
        """Add up over all workers, which must all call it."""
        value = value.clone()
        if self.place.world > 1:
            torch.distributed.all_reduce(value)
        return float(value)

    def is_leaving(self, step: int) -> bool:
        """Whether a machine is about to go; all workers must call it after each step of theirs.

        They ask Ray about every 2 s, after the same step: a question is a message to Ray and back
        for all of them, as long as a small step, and a notice comes 30 s ahead or more.

        Args:
            step: Steps done since the beginning.
        """
        if self._ask_at is None:
            self._ask_at = step - 1 + _LEAVING_FIRST_STEPS
            self._asked_step, self._asked_s = step, time.monotonic()
        if step < self._ask_at:
            return False
        found = self.place.leaving()
        now_s = time.monotonic()
        a_step_s = (now_s - self._asked_s) / max(1, step - self._asked_step)
        # The first worker's pace counts.
        self._ask_at = step + state.gathered(max(1, round(_LEAVING_EVERY_S / a_step_s)))[0]
        self._asked_step, self._asked_s = step, now_s
        return found

    def log(self, step: int, metrics: dict[str, Tensor | float]) -> None:
        """Note this worker's metrics of a step, as ``step/<name>``; only the first one's count.

        Tensors are read later, many at once, so that a GPU need not wait for each.
        """
        if self._log is None:
            return
        self._waiting.append((step, int(time.time() * 1000), metrics))
        if len(self._waiting) >= _POINTS_PER_FLUSH:
            self._flush()
        if time.monotonic() - self._noted_s >= _SYSTEM_EVERY_S:
            self._note_usage(step)

    def save(
        self,
        position: Position,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        metrics: dict[str, float] | None = None,
    ) -> None:
        """Write a checkpoint; all workers must call it. `metrics` are those of a whole epoch."""
        sums = state.gathered(position.loss_sums[0] if position.loss_sums else 0.0)
        collected = state.gather(network, optimizer)
        place = replace(position, loss_sums=tuple(sums) if position.step else ())
        self._keep(place, metrics or {}, lambda folder: state.write(folder, collected))

    def _keep(
        self, position: Position, metrics: dict[str, float], fill: Callable[[Path], None]
    ) -> None:
        if self._log is None:
            return
        # Metrics first: a step that is not repeated must not lack its point.
        self._flush()
        self._log.flush(to_disk=True)
        self._checkpoints.write(position, metrics, fill)

    @property
    def is_fitted(self) -> bool:
        """Whether an estimator of an earlier try is there, whole."""
        return self._checkpoints.newest() is not None

    def end_fit(self, metrics: dict[str, float], fill: Callable[[Path], None]) -> None:
        """Log an estimator's metrics, keep the files that `fill` writes, and tell Ray."""
        assert self._log is not None
        self._note_usage(1)
        self._log.add(EPOCH, 1, metrics, int(time.time() * 1000))
        self._keep(Position(epoch=1, total=1), metrics, fill)
        self.place.report({**metrics, "epoch": 1.0})

    def end_epoch(
        self,
        epoch: int,
        metrics: dict[str, float],
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        total: int | None = None,
    ) -> None:
        """Log an epoch's metrics, write its checkpoint and tell Ray; all workers must call it.

        Args:
            epoch: Counts from 0.
            metrics: Equal in all workers. ``validation_loss``, if there, chooses the best epoch.
            network: As `network` returned it first.
            optimizer: Its optimizer.
            total: Steps done since the beginning; None counts epochs instead.
        """
        if self._log is not None:
            self._flush()
            self._note_usage(epoch + 1 if total is None else total)
            self._log.add(EPOCH, epoch + 1, metrics, int(time.time() * 1000))
        position = Position(epoch=epoch + 1, total=epoch + 1 if total is None else total)
        self.save(position, network, optimizer, metrics)
        self.place.report({**metrics, "epoch": float(epoch + 1)})

    def restore(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> Position:
        """Load the newest whole checkpoint, if any; say where training goes on.

        All workers must call it. Random numbers go on as well, or are seeded anew where a
        worker had none.
        """
        newest = self._checkpoints.newest() if self.place.rank == 0 else None
        # The first worker chooses: a folder may appear or go while others look.
        found: Checkpoint | None = state.gathered(newest)[0]
        if found is None:
            return Position()
        rank = self.place.rank
        if not state.restore(found.folder, network, optimizer, rank):
            state.seed(self.recipe.seed, found.position.epoch, found.position.step, rank)
        sums = found.position.loss_sums
        # With another number of workers, the first carries on all sums.
        mine = sums[rank] if len(sums) == self.place.world else sum(sums) * (rank == 0)
        return replace(found.position, loss_sums=(float(mine),) if sums else ())

    def seed_epoch(self, epoch: int) -> None:
        """Seed all random numbers for an epoch that begins."""
        state.seed(self.recipe.seed, epoch, self.place.rank)

    def rows_of(self, held: Held, size: int) -> Iterator[Rows]:
        """This worker's part of the rows held back."""
        return held.shards(self.place.rank, self.place.world, size)

    def close(self) -> None:
        """Write what is left."""
        if self._log is not None:
            self._flush()
            self._log.close()

    def _flush(self) -> None:
        if self._log is None:
            return
        waiting, self._waiting = self._waiting, []
        for step, at_ms, metrics in waiting:
            numbers = {f"step/{name}": float(value) for name, value in metrics.items()}
            self._log.add(STEP, step, numbers, at_ms)
        self._log.flush()

    def _note_usage(self, step: int) -> None:
        assert self._log is not None
        self._noted_s = time.monotonic()
        used = self._usage.since_last(time.monotonic(), time.process_time())
        if self.place.device.type == "cuda":
            used["system/gpu_0_memory_usage_megabytes"] = torch.cuda.max_memory_allocated() / 1e6
        self._log.add(SYSTEM, step, used, int(time.time() * 1000))
