"""The built-in loop in one process: the same steps whatever happens on the way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import safetensors.torch
import torch

from heliostat.training import loop
from heliostat.training.checkpoints import FOLDER, Checkpoints
from heliostat.training.compute import Compute, Keep
from heliostat.training.recipe import TrainRecipe
from heliostat.training.rows import prepare
from heliostat.training.session import Place, Session
from heliostat.training.spool import MetricSpool

RECIPE = TrainRecipe(
    label="y",
    numeric=("a", "b"),
    categorical=("c",),
    params={"hidden": 16, "blocks": 1, "dropout": 0.2},
    epochs=3,
    batch_size=128,
    num_workers=1,
    log_every_steps=1,
    unknown_ratio=0.1,
    compute=Compute(deterministic=True),
)


class Stopped(Exception):
    """The process is gone."""


class Mortal(Session):
    """Stops at a step."""

    steps_to_live: int | None = None

    def loss(self, output_B: torch.Tensor, label_B: torch.Tensor) -> torch.Tensor:
        if self.steps_to_live is not None:
            self.steps_to_live -= 1
            if self.steps_to_live == 0:
                raise Stopped
        return super().loss(output_B, label_B)


def brier(output_B: torch.Tensor, label_B: torch.Tensor) -> dict[str, torch.Tensor]:
    """A measure of a workload."""
    return {"brier": (torch.sigmoid(output_B) - label_B) ** 2}


def doubled(output_B: torch.Tensor, label_B: torch.Tensor) -> torch.Tensor:
    """A loss of a workload."""
    return 2 * torch.nn.functional.binary_cross_entropy_with_logits(
        output_B, label_B, reduction="none"
    )


def descend(session: Session) -> None:
    """An own loop: plain descent."""
    network, model = session.network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    start = session.restore(network, optimizer)
    feed = session.feed()
    for epoch in range(start.epoch, session.recipe.epochs):
        total = 0.0
        for step in feed.epoch(epoch, 0):
            numeric, categorical, label = step.rows
            loss = session.loss(model(numeric, categorical), label).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += float(loss.detach()) * len(label)
        session.end_epoch(epoch, {"train_loss": total / len(feed)}, network, optimizer)


def _rows() -> pl.DataFrame:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=1000), rng.normal(size=1000)
    c = rng.choice(["x", "y", "z"], 1000)
    return pl.DataFrame({"a": a, "b": b, "c": c, "y": (a + b + (c == "x") > 0).astype(int)})


def _train(
    recipe: TrainRecipe,
    folder: Path,
    *,
    fatal: int | None = None,
    leaving: Callable[[], bool] = lambda: False,
) -> None:
    folder.mkdir(exist_ok=True)
    place = Place(rank=0, world=1, device=torch.device("cpu"), leaving=leaving)
    session = Mortal(recipe, prepare(recipe, _rows(), folder / "rows"), folder, place)
    session.steps_to_live = fatal
    try:
        (recipe.loop or loop.train)(session)
    finally:
        session.close()


def _end(recipe: TrainRecipe, folder: Path) -> tuple[bytes, Any]:
    newest = Checkpoints(folder / FOLDER, recipe.keep).newest()
    assert newest is not None
    return (newest.folder / "weights.safetensors").read_bytes(), dict(MetricSpool(folder).epochs())


def test_a_training_stopped_anywhere_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Dropout, hidden categories and order go on where the checkpoint left them."""
    recipe = dataclasses.replace(RECIPE, keep=Keep(every_steps=3))
    _train(recipe, tmp_path / "calm")
    for fatal in (2, 11, 4, 5):
        with pytest.raises(Stopped):
            _train(recipe, tmp_path / "rough", fatal=fatal)
    _train(recipe, tmp_path / "rough")

    assert _end(recipe, tmp_path / "rough") == _end(recipe, tmp_path / "calm")
    lines = (tmp_path / "rough" / "metrics.jsonl").read_text().splitlines()
    steps = [line for line in lines if '"step/loss"' in line]
    # 900 rows in steps of 128, three times: each step once.
    assert len(steps) == 3 * 8


def test_a_machine_that_is_about_to_go_is_left_with_a_checkpoint(tmp_path: Path) -> None:
    """Written in the middle of an epoch, at the step that asks; nothing of it is done twice."""
    recipe = dataclasses.replace(RECIPE, batch_size=32)
    _train(recipe, tmp_path / "calm")
    # 900 rows are 29 steps; the first question comes after 5, and the machine dies at the next.
    with pytest.raises(Stopped):
        _train(recipe, tmp_path / "rough", fatal=6, leaving=lambda: True)
    newest = Checkpoints(tmp_path / "rough" / FOLDER, recipe.keep).newest()
    assert newest is not None
    assert (newest.position.epoch, newest.position.step) == (0, 5)
    _train(recipe, tmp_path / "rough")

    assert _end(recipe, tmp_path / "rough") == _end(recipe, tmp_path / "calm")


def test_parts_of_a_step_add_up_to_the_step(tmp_path: Path) -> None:
    """Accumulating gradients saves memory and changes rounding only."""
    plain = dataclasses.replace(
        RECIPE, params={"hidden": 16, "blocks": 1, "dropout": 0.0}, unknown_ratio=0.0
    )
    cut = dataclasses.replace(plain, compute=dataclasses.replace(plain.compute, accumulate=3))
    ends = []
    for name, recipe in (("plain", plain), ("cut", cut)):
        _train(recipe, tmp_path / name)
        ends.append(_end(recipe, tmp_path / name)[1])

    for epoch in (1, 2, 3):
        assert ends[0][epoch] == pytest.approx(ends[1][epoch], rel=1e-5)


def test_bfloat16_learns_the_same(tmp_path: Path) -> None:
    """Only the forward pass is rounded: weights stay float32."""
    half = dataclasses.replace(RECIPE, compute=Compute(precision="bfloat16"))
    for name, recipe in (("full", RECIPE), ("half", half)):
        _train(recipe, tmp_path / name)
    (_, full_epochs), (bits, half_epochs) = (
        _end(RECIPE, tmp_path / "full"),
        _end(half, tmp_path / "half"),
    )

    assert half_epochs != full_epochs
    assert half_epochs[3]["validation_loss"] == pytest.approx(
        full_epochs[3]["validation_loss"], rel=0.03
    )
    assert b'"F32"' in bits
    assert b'"BF16"' not in bits


def test_a_recipe_brings_its_own_loss_measure_and_loop(tmp_path: Path) -> None:
    """Each is a function of the workload; the rest stays."""
    recipe = dataclasses.replace(RECIPE, loss=doubled, measure=brier)
    _train(RECIPE, tmp_path / "usual")
    _train(recipe, tmp_path / "own")
    own_loop = dataclasses.replace(RECIPE, loop=descend)
    _train(own_loop, tmp_path / "loop")
    usual, own = (_end(RECIPE, tmp_path / name)[1][1] for name in ("usual", "own"))

    assert own["train_loss"] > 1.5 * usual["train_loss"]
    assert 0 < own["validation_brier"] < 0.25
    losses = [epoch["train_loss"] for epoch in _end(own_loop, tmp_path / "loop")[1].values()]
    assert len(losses) == 3
    assert losses[2] < losses[0]


@pytest.mark.proof
def test_a_compiled_network_learns_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounding aside, and the weights keep their names. Without what is drawn in the network:
    there `torch.compile` draws other numbers.
    """
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    plain = dataclasses.replace(
        RECIPE, params={"hidden": 16, "blocks": 1, "dropout": 0.0}, unknown_ratio=0.0,
        compute=Compute(),
    )  # fmt: skip
    compiled = dataclasses.replace(plain, compute=Compute(compile=True))
    for name, recipe in (("plain", plain), ("compiled", compiled)):
        _train(recipe, tmp_path / name)
    (bits, losses), (compiled_bits, compiled_losses) = (
        _end(plain, tmp_path / "plain"),
        _end(compiled, tmp_path / "compiled"),
    )

    assert list((tmp_path / "cache").rglob("*.so"))
    for epoch in (1, 2, 3):
        assert compiled_losses[epoch] == pytest.approx(losses[epoch], rel=1e-4)
    weights, compiled_weights = safetensors.torch.load(bits), safetensors.torch.load(compiled_bits)
    assert compiled_weights.keys() == weights.keys()
