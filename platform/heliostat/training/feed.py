"""Rows of each step for one worker: by number from memory, or streamed by Ray Data. Imports torch.

Shapes: B rows, N numeric inputs, C categorical inputs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from heliostat.training.recipe import TrainRecipe
from heliostat.training.rows import PreparedRows

Rows = tuple[Tensor, Tensor, Tensor]
"""Numeric (B, N), categorical (B, C) and label (B,)."""

_SHUFFLED_BATCHES = 8
"""A stream is shuffled within so many batches; its files are written in the rows' own order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """What one worker does in one step."""

    rows: Rows
    num_rows: int
    """Of all workers together."""

    waited_s: float
    """How long the worker waited for them."""


class MappedFeed:
    """All rows in this worker's memory; seed, epoch and step alone say which come when."""

    def __init__(
        self,
        recipe: TrainRecipe,
        rows: PreparedRows,
        *,
        rank: int,
        world: int,
        device: torch.device,
    ) -> None:
        self._recipe, self._rank, self._world = recipe, rank, world
        self._held = Held(rows, "train", device)
        self.num_steps = math.ceil(len(self._held) / recipe.batch_size)
        if len(self._held) % recipe.batch_size and len(self._held) % recipe.batch_size < world:
            # Too few rows for each worker to have one.
            self.num_steps = max(1, self.num_steps - 1)

    def __len__(self) -> int:
        return len(self._held)

    def epoch(self, epoch: int, first: int) -> Iterator[Step]:
        """Steps of an epoch from number `first` on."""
        size = self._recipe.batch_size
        order = self._held.numbers(
            np.random.default_rng((self._recipe.seed, epoch)).permutation(len(self._held))
        )
        for step in range(first, self.num_steps):
            began = time.perf_counter()
            batch = order[step * size : (step + 1) * size]
            rows = self._held.take(batch[self._rank :: self._world])
            yield Step(rows=rows, num_rows=len(batch), waited_s=time.perf_counter() - began)


class StreamedFeed:
    """This worker's part of the rows, streamed by Ray Data; an epoch cannot begin in its middle."""

    def __init__(
        self, recipe: TrainRecipe, rows: PreparedRows, *, shard: Any, world: int,
        device: torch.device,
    ) -> None:  # fmt: skip
        self._recipe, self._shard, self._world, self._device = recipe, shard, world, device
        self._inputs = rows.input_names()
        self._local = max(1, recipe.batch_size // world)
        self._num_rows = rows.num_train + rows.num_padding
        self.num_steps = math.ceil(self._num_rows // world / self._local)

    def __len__(self) -> int:
        return self._num_rows

    def epoch(self, epoch: int, first: int) -> Iterator[Step]:
        """Steps of an epoch, from its beginning whatever `first` says."""
        del first
        batches = iter(
            self._shard.iter_batches(
                batch_size=self._local,
                batch_format="numpy",
                prefetch_batches=2,
                local_shuffle_buffer_size=_SHUFFLED_BATCHES * self._local,
                local_shuffle_seed=self._recipe.seed + epoch,
            )
        )
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            waited_s = time.perf_counter() - began
            if batch is None:
                return
            rows = self._tensors(batch)
            yield Step(rows=rows, num_rows=len(rows[2]) * self._world, waited_s=waited_s)

    def _tensors(self, batch: Mapping[str, Any]) -> Rows:
        numeric, categorical = self._inputs
        label_B = torch.from_numpy(np.ascontiguousarray(batch["label"], np.float32))
        return (
            _moved(_matrix(batch, numeric, np.float32, len(label_B)), self._device),
            _moved(_matrix(batch, categorical, np.int64, len(label_B)), self._device),
            _moved(label_B, self._device),
        )


class Held:
    """All rows of one part on the device."""

    def __init__(self, rows: PreparedRows, part: str, device: torch.device) -> None:
        read = rows.read_train() if part == "train" else rows.read_validation()
        self._numeric = torch.from_numpy(read.numeric_BN).to(device)
        self._categorical = torch.from_numpy(read.categorical_BC).to(device)
        # A copy: NumPy's view of a frame may be read-only.
        self._label = torch.tensor(read.label_B).to(device)

    def __len__(self) -> int:
        return len(self._label)

    def numbers(self, order: np.ndarray[Any, Any]) -> Tensor:
        """Numbers of rows for `take`; moved at once, as each move makes the host wait for a GPU."""
        return torch.from_numpy(order).to(self._label.device)

    def take(self, numbers: Tensor) -> Rows:
        """Some rows by number."""
        return self._numeric[numbers], self._categorical[numbers], self._label[numbers]

    def shards(self, rank: int, world: int, size: int) -> Iterator[Rows]:
        """This worker's part, in order, `size` rows at a time; all workers get as many parts.

        A worker's last part may be empty.
        """
        rounds = math.ceil(len(self) / (world * size))
        for number in range(rounds):
            start = (number * world + rank) * size
            part = slice(start, start + size)
            yield self._numeric[part], self._categorical[part], self._label[part]


def parts(rows: Rows, count: int) -> list[Rows]:
    """Cut a step's rows into at most `count` parts of about the same size, none of them empty."""
    size = max(1, math.ceil(len(rows[2]) / count))
    cuts = range(0, len(rows[2]), size)
    return [(rows[0][c : c + size], rows[1][c : c + size], rows[2][c : c + size]) for c in cuts]


def _matrix(batch: Mapping[str, Any], names: list[str], kind: Any, num_rows: int) -> Tensor:
    matrix_BX = np.empty((num_rows, len(names)), kind)
    for index, name in enumerate(names):
        matrix_BX[:, index] = batch[name]
    return torch.from_numpy(matrix_BX)


def _moved(rows: Tensor, device: torch.device) -> Tensor:
    """Rows on the device; from pinned memory a GPU fetches them while it still computes."""
    if device.type != "cuda":
        return rows.to(device)
    return rows.pin_memory().to(device, non_blocking=True)
