"""The built-in training loop of one worker. Imports torch.

The rows of a step depend on seed, epoch and step alone, not on the number of workers. A
checkpoint holds the position and all random numbers, so a training that goes on from it ends with
the same weights as one that never stopped.
"""

from __future__ import annotations

import contextlib
import math
from typing import Any

import torch
from torch import Tensor, nn

from heliostat.training import feed
from heliostat.training.checkpoints import Position
from heliostat.training.session import Session

_HELD_ROWS = 8192


def train(session: Session) -> None:
    """Train all steps that are left; report metrics and a checkpoint after each epoch."""
    recipe = session.recipe
    network, model = session.network()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    start = session.restore(network, optimizer)
    rows, held = session.feed(), session.held()
    steps = rows.num_steps
    device = session.place.device
    for epoch in range(start.epoch, recipe.epochs):
        first, loss_sum = 0, torch.zeros(1, device=device)
        if epoch == start.epoch and start.step and recipe.feed == "map":
            first = start.step
            loss_sum += start.loss_sums[0]
        else:
            session.seed_epoch(epoch)
        model.train()
        waited_s = 0.0
        for number, step in enumerate(rows.epoch(epoch, first), start=first):
            total = epoch * steps + number + 1
            rate = recipe.learning_rate * _rate(total - 1, recipe.epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = _step(session, model, optimizer, step)
            loss_sum += loss
            waited_s += step.waited_s
            if recipe.log_every_steps and total % recipe.log_every_steps == 0:
                session.log(
                    total,
                    {"loss": loss / len(step.rows[2]), "learning_rate": rate, "waited_s": waited_s},
                )
            if number + 1 < steps and _is_due(session, total):
                place = Position(
                    epoch=epoch, step=number + 1, total=total, loss_sums=(float(loss_sum),)
                )
                session.save(place, network, optimizer)
        metrics = {"train_loss": session.sum(loss_sum) / len(rows)}
        metrics["learning_rate"] = float(optimizer.param_groups[0]["lr"])
        if len(held):
            metrics |= _validate(session, model, held)
        session.end_epoch(epoch, metrics, network, optimizer, total=(epoch + 1) * steps)


def _step(
    session: Session, model: nn.Module, optimizer: torch.optim.Optimizer, step: feed.Step
) -> Tensor:
    """Take one step of the optimizer; return the sum of this worker's losses."""
    optimizer.zero_grad(set_to_none=True)
    pieces = feed.parts(step.rows, session.recipe.compute.accumulate)
    total = torch.zeros(1, device=session.place.device)
    for number, (numeric, categorical, label) in enumerate(pieces, start=1):
        with _synchronised(model, last=number == len(pieces)):
            with session.autocast():
                output = model(numeric, categorical)
            loss = session.loss(output.float(), label).sum()
            # The workers' gradients are averaged; this makes the average one over all rows.
            (loss * session.place.world / step.num_rows).backward()
        total += loss.detach()
    optimizer.step()
    return total


def _synchronised(model: nn.Module, *, last: bool) -> contextlib.AbstractContextManager[Any]:
    """Exchange gradients with the other workers after the last part only."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return contextlib.nullcontext() if last else model.no_sync()
    sync = getattr(model, "set_requires_gradient_sync", None)
    if sync is not None:
        sync(last)
    return contextlib.nullcontext()


def _is_due(session: Session, total: int) -> bool:
    every = session.recipe.keep.every_steps
    # Asked first: all workers must ask after the same steps.
    return session.is_leaving(total) or (every is not None and total % every == 0)


@torch.no_grad()
def _validate(session: Session, model: nn.Module, held: feed.Held) -> dict[str, float]:
    """Mean loss, and means of the recipe's own measures, over all rows held back."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        # Each worker sees its own rows only, and not as many as others.
        model = model.module
    model.eval()
    sums: dict[str, Tensor] = {}
    device = session.place.device
    for numeric, categorical, label in session.rows_of(held, _HELD_ROWS):
        output = model(numeric, categorical).float()
        values = {"loss": session.loss(output, label)}
        if session.recipe.measure is not None:
            values |= session.recipe.measure(output, label)
        for name, value_B in values.items():
            sums[name] = sums.get(name, torch.zeros(1, device=device)) + value_B.float().sum()
    return {f"validation_{name}": session.sum(value) / len(held) for name, value in sums.items()}


def _rate(step: int, num_steps: int) -> float:
    warm = max(1, num_steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, num_steps - warm)))
