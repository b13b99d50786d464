"""Torch modules of training. Imports torch: only for Ray workers, export and tests.

Shapes: B rows, N numeric inputs, C categorical inputs, D embedding width, H hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from heliostat.config import require
from heliostat.registry.package import MISSING_CODE, UNKNOWN_CODE, ModelInput

if TYPE_CHECKING:
    from heliostat.training.recipe import TrainRecipe
    from heliostat.training.rows import Statistics

_CLIP = 10.0
"""Standardised values are cut here, so that one absurd value cannot swing an answer at will."""


class ResidualNetwork(nn.Module):
    """Numbers and embedded categories through residual blocks to one number per row."""

    starts: Tensor

    def __init__(
        self,
        *,
        num_numeric: int,
        num_codes: Sequence[int],
        hidden: int,
        blocks: int,
        dropout: float,
        embedding: int,
    ) -> None:
        super().__init__()
        starts = torch.tensor([0, *num_codes]).cumsum(0)[:-1]
        self.register_buffer("starts", starts, persistent=False)
        self.embed = nn.Embedding(sum(num_codes), embedding) if num_codes else None
        if self.embed is not None:
            with torch.no_grad():
                self.embed.weight.mul_(0.1)
                # A missing or unknown category that training never saw then says nothing.
                self.embed.weight[starts + MISSING_CODE] = 0
                self.embed.weight[starts + UNKNOWN_CODE] = 0
        self.first = nn.Linear(2 * num_numeric + embedding * len(num_codes), hidden)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(hidden),
                nn.Linear(hidden, hidden),
                nn.ReLU(),
                nn.Dropout(dropout),
                nn.Linear(hidden, hidden),
            )
            for _ in range(blocks)
        )
        self.last = nn.Sequential(nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        """Return shape (B,)."""
        parts = [numeric]
        if self.embed is not None:
            parts.append(self.embed(categorical + self.starts).flatten(1))
        rows = self.first(torch.cat(parts, dim=1))
        for block in self.blocks:
            rows = rows + block(rows)
        answers: Tensor = self.last(rows)
        return answers[:, 0]


class TrainedNetwork(nn.Module):
    """A recipe's module between raw rows and answers: what is trained, saved and exported.

    Standardises numbers, flags missing ones, hides some categories while training, and
    scales the module's output back to the label.
    """

    mean: Tensor
    deviation: Tensor
    has_missing: Tensor
    offset: Tensor
    scale: Tensor

    def __init__(self, body: nn.Module, statistics: Statistics, *, unknown_ratio: float) -> None:
        super().__init__()
        self.body = body
        self.unknown_ratio = unknown_ratio
        self.register_buffer("mean", torch.tensor(statistics.mean, dtype=torch.float32))
        self.register_buffer("deviation", torch.tensor(statistics.deviation, dtype=torch.float32))
        self.register_buffer("has_missing", torch.tensor(statistics.has_missing).float())
        self.register_buffer("offset", torch.tensor(statistics.output_offset))
        self.register_buffer("scale", torch.tensor(statistics.output_scale))

    def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
        """Return logits, or numbers in the label's unit, shape (B,)."""
        missing = torch.isnan(numeric)
        values = ((numeric - self.mean) / self.deviation).clamp(-_CLIP, _CLIP)
        values = torch.where(missing, torch.zeros_like(values), values)
        # A flag that was never set in training would add untrained weights at serving time.
        flags = missing.to(values.dtype) * self.has_missing
        if self.training and self.unknown_ratio > 0:
            hide = torch.rand(categorical.shape, device=categorical.device) < self.unknown_ratio
            categorical = categorical.masked_fill(hide, UNKNOWN_CODE)
        output: Tensor = self.body(torch.cat([values, flags], dim=1), categorical)
        return output.reshape(-1) * self.scale + self.offset


class AnsweringNetwork(nn.Module):
    """A trained network as it is served: only the inputs that exist, probabilities if binary."""

    def __init__(
        self,
        network: TrainedNetwork,
        *,
        probability: bool,
        has_numeric: bool,
        has_categorical: bool,
    ) -> None:
        super().__init__()
        self.network = network
        self.probability = probability
        self.has_numeric = has_numeric
        self.has_categorical = has_categorical

    def forward(self, *tensors: Tensor) -> Tensor:
        """Take ``numeric``, ``categorical`` or both, in this order; return shape (B,)."""
        num_rows, device = tensors[0].shape[0], tensors[0].device
        numeric = tensors[0] if self.has_numeric else torch.zeros(num_rows, 0, device=device)
        categorical = (
            tensors[-1]
            if self.has_categorical
            else torch.zeros(num_rows, 0, dtype=torch.int64, device=device)
        )
        output: Tensor = self.network(numeric, categorical)
        return torch.sigmoid(output) if self.probability else output


def build(
    recipe: TrainRecipe, inputs: Sequence[ModelInput], statistics: Statistics
) -> TrainedNetwork:
    """Build the network of a recipe, untrained, on the CPU.

    Raises:
        ConfigError: The recipe's model makes something else.
    """
    body = recipe.model(inputs, **recipe.params)
    require(
        isinstance(body, nn.Module), "train.model", type(body).__name__,
        'must make a torch module; for an estimator say learner="estimator"',
    )  # fmt: skip
    return TrainedNetwork(body, statistics, unknown_ratio=recipe.unknown_ratio)
