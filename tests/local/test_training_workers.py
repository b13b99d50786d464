"""Several workers learn what one learns, and a killed one changes no bit, whole or split."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import pytest

from heliostat.training.checkpoints import FOLDER, Checkpoints
from heliostat.training.compute import Compute, Keep
from heliostat.training.recipe import TrainRecipe
from heliostat.training.spool import MetricSpool
from tests.local import training_group

RECIPE = TrainRecipe(
    label="y",
    numeric=("a", "b"),
    categorical=("c",),
    params={"hidden": 16, "blocks": 2, "dropout": 0.2},
    epochs=2,
    batch_size=128,
    num_workers=2,
    log_every_steps=1,
    keep=Keep(every_steps=3),
)


def _with(strategy: Literal["ddp", "fsdp"], **more: Any) -> TrainRecipe:
    compute = Compute(strategy=strategy, deterministic=True)
    return dataclasses.replace(RECIPE, compute=compute, **more)


def _end(folder: Path) -> tuple[bytes, Any]:
    newest = Checkpoints(folder / FOLDER, RECIPE.keep).newest()
    assert newest is not None
    return (newest.folder / "weights.safetensors").read_bytes(), dict(MetricSpool(folder).epochs())


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=pytest.mark.proof)])
def test_a_killed_worker_changes_no_bit(tmp_path: Path, strategy: Literal["ddp", "fsdp"]) -> None:
    """SIGKILL in the second worker, then in the first: weights and metrics stay the same."""
    recipe = _with(strategy)
    assert training_group.run(recipe, tmp_path / "calm") == [0, 0]
    for rank, step in ((1, 5), (0, 4)):
        codes = training_group.run(recipe, tmp_path / "rough", fatal=(rank, step))
        assert codes[rank] == -9
    assert training_group.run(recipe, tmp_path / "rough") == [0, 0]

    assert _end(tmp_path / "rough") == _end(tmp_path / "calm")


def test_one_and_two_workers_reach_the_same_losses(tmp_path: Path) -> None:
    """With the same global batch; what is drawn at random differs by worker, so nothing is."""
    still = {"params": {"hidden": 16, "blocks": 2, "dropout": 0.0}, "unknown_ratio": 0.0}
    found = {}
    for name, recipe in (
        ("one", _with("ddp", num_workers=1, **still)),
        ("ddp", _with("ddp", **still)),
        ("fsdp", _with("fsdp", **still)),
    ):
        training_group.run(recipe, tmp_path / name)
        found[name] = _end(tmp_path / name)[1]

    for name in ("ddp", "fsdp"):
        assert set(found[name]) == {1, 2}
        for epoch in (1, 2):
            assert found[name][epoch] == pytest.approx(found["one"][epoch], rel=1e-5)


def test_a_training_goes_on_with_another_number_of_workers(tmp_path: Path) -> None:
    """Split over two, one lost for good, whole in one: every step was taken once."""
    two = _with("fsdp")
    training_group.run(two, tmp_path / "run", fatal=(1, 5))
    one = dataclasses.replace(two, num_workers=1)
    assert training_group.run(one, tmp_path / "run") == [0]

    losses = [epoch["train_loss"] for epoch in _end(tmp_path / "run")[1].values()]
    assert len(losses) == 2
    assert 0 < losses[1] < losses[0] < 1
