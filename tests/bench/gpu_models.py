"""Rows, recipes and a network of attention for the figures of a GPU, in full and rehearsal size."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from heliostat.registry.package import ModelInput
from heliostat.training.compute import Compute, Keep
from heliostat.training.recipe import TrainRecipe, Validation

WARM_CALLS = 20
MARK = Path(tempfile.gettempdir()) / f"heliostat-gpu-mark-{os.getuid()}"
_calls = [0]

NUMERIC = tuple(f"n{number}" for number in range(24))
CATEGORICAL = tuple(f"c{number}" for number in range(8))


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """How much work a measurement is."""

    wide_rows: int
    wide_batch: int
    wide: dict[str, Any]
    tokens_rows: int
    tokens_batch: int
    tokens: dict[str, Any]
    rounds: int


FULL = Size(
    wide_rows=820_000, wide_batch=8192, wide={"hidden": 2048, "blocks": 5, "dropout": 0.1},
    tokens_rows=300_000, tokens_batch=2048, tokens={"width": 512, "layers": 6, "heads": 8},
    rounds=5,
)  # fmt: skip
REHEARSAL = Size(
    wide_rows=6_000, wide_batch=128, wide={"hidden": 32, "blocks": 2, "dropout": 0.1},
    tokens_rows=3_000, tokens_batch=64, tokens={"width": 16, "layers": 2, "heads": 2},
    rounds=2,
)  # fmt: skip


def attention(inputs: Sequence[ModelInput], *, width: int, layers: int, heads: int) -> Any:
    """A token for each column through layers of attention to one number per row."""
    import torch
    from torch import Tensor, nn

    num_numeric = sum(item.kind == "numeric" for item in inputs)
    sizes = [len(item.vocabulary) + 2 for item in inputs if item.kind == "categorical"]

    class Tokens(nn.Module):
        starts: Tensor

        def __init__(self) -> None:
            super().__init__()
            starts = torch.tensor([0, *sizes]).cumsum(0)[:-1]
            self.register_buffer("starts", starts, persistent=False)
            self.embed = nn.Embedding(sum(sizes), width)
            self.value = nn.Parameter(torch.randn(num_numeric, width) / width**0.5)
            self.flag = nn.Parameter(torch.randn(num_numeric, width) / width**0.5)
            self.layers = nn.ModuleList(
                nn.TransformerEncoderLayer(
                    width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True,
                    norm_first=True,
                )
                for _ in range(layers)
            )  # fmt: skip
            self.last = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))

        def forward(self, numeric: Tensor, categorical: Tensor) -> Tensor:
            values = numeric[:, :num_numeric, None] * self.value
            flags = numeric[:, num_numeric:, None] * self.flag
            tokens = torch.cat([values + flags, self.embed(categorical + self.starts)], dim=1)
            for layer in self.layers:
                tokens = layer(tokens)
            answer: Tensor = self.last(tokens.mean(dim=1))
            return answer[:, 0]

    return Tokens()


def made(count: int) -> pl.DataFrame:
    """Rows of which a third of the columns say something about the label."""
    rng = np.random.default_rng(11)
    numeric = {name: rng.standard_normal(count, np.float32) for name in NUMERIC}
    codes = {name: rng.integers(0, 40, count) for name in CATEGORICAL}
    logit = sum(numeric[name] for name in NUMERIC[:8]) / 3 + (codes[CATEGORICAL[0]] < 10)
    numeric[NUMERIC[0]][rng.random(count) < 0.1] = np.nan
    label = (logit + rng.logistic(size=count) > 0).astype(np.int8)
    return pl.DataFrame({**numeric, **codes, "y": label})


def marked(output_B: Any, label_B: Any) -> Any:
    """The usual loss; leaves the time of its call after the warm ones, when the device is done.

    So a training is timed from there, in whatever process it runs.
    """
    import torch

    _calls[0] += 1
    if _calls[0] == WARM_CALLS + 1:
        if output_B.is_cuda:
            torch.cuda.synchronize()
        MARK.write_text(str(time.time()), encoding="utf-8")
    return torch.nn.functional.binary_cross_entropy_with_logits(output_B, label_B, reduction="none")


def forget() -> None:
    """Begin to count calls anew in this process; there is no mark."""
    _calls[0] = 0
    MARK.unlink(missing_ok=True)


def wide(size: Size, compute: Compute) -> TrainRecipe:
    """The platform's own network, with wide layers; one epoch."""
    return _recipe(compute, params=size.wide, batch_size=size.wide_batch, loss=marked)


def tokens(size: Size, compute: Compute) -> TrainRecipe:
    """The network of attention; one epoch."""
    return _recipe(
        compute, model=attention, params=size.tokens, batch_size=size.tokens_batch, loss=marked
    )


def small(compute: Compute, **more: Any) -> TrainRecipe:
    """A small network without anything drawn at random but its first weights; three epochs."""
    still = {"params": {"hidden": 64, "blocks": 2, "dropout": 0.0}, "unknown_ratio": 0.0}
    return _recipe(
        compute, **{**still, "epochs": 3, "batch_size": 256, "validation": Validation(), **more}
    )


def _recipe(compute: Compute, **more: Any) -> TrainRecipe:
    fixed: dict[str, Any] = {
        "label": "y", "numeric": NUMERIC, "categorical": CATEGORICAL, "epochs": 1,
        "num_workers": 1, "log_every_steps": 10, "keep": Keep(policy="last"), "seed": 3,
        "validation": Validation(share=0.0), "learning_rate": 1e-3, "compute": compute,
    }  # fmt: skip
    return TrainRecipe(**{**fixed, **more})
