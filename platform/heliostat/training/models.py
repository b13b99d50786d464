"""Network factories for recipes to name; torch is loaded when one is called, not before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from heliostat.registry.package import ModelInput

if TYPE_CHECKING:
    from torch import nn


def tabular(
    inputs: Sequence[ModelInput],
    *,
    hidden: int = 64,
    blocks: int = 2,
    dropout: float = 0.1,
    embedding: int = 8,
) -> nn.Module:
    """Build a residual network over numbers and embedded categories.

    An own factory has the same form. Its module is called as ``module(numeric, categorical)``
    and returns shape (B,) or (B, 1): the logit of a binary label, or a standardised number.
    ``numeric`` is float32 (B, 2N): N standardised values, 0 where missing, then N flags that
    are 1 where missing. ``categorical`` is int64 (B, C): codes as in `registry.package`.

    Args:
        inputs: Inputs with their vocabularies, numeric ones first.
        hidden: Width of the network.
        blocks: Number of residual blocks.
        dropout: Share of activations dropped in each block while training.
        embedding: Numbers per category.
    """
    from heliostat.training.network import ResidualNetwork

    return ResidualNetwork(
        num_numeric=sum(item.kind == "numeric" for item in inputs),
        num_codes=[len(item.vocabulary) + 2 for item in inputs if item.kind == "categorical"],
        hidden=hidden,
        blocks=blocks,
        dropout=dropout,
        embedding=embedding,
    )
