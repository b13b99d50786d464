"""A checkpoint is there whole or not at all, and the policy says which ones stay."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

import pytest

from heliostat.training.checkpoints import Checkpoint, Checkpoints, Position, best, read
from heliostat.training.compute import Keep


def _fill(folder: Path) -> None:
    for name in ("a", "b", "c"):
        (folder / name).write_text(name * 100)


def _end(checkpoints: Checkpoints, epoch: int, loss: float | None) -> Checkpoint:
    metrics = {} if loss is None else {"validation_loss": loss}
    return checkpoints.write(Position(epoch=epoch, total=10 * epoch), metrics, _fill)


def test_a_process_killed_at_any_point_of_a_write_leaves_the_last_whole_one(tmp_path: Path) -> None:
    """Before, between and after the files, while renaming and while dropping old ones."""
    events = ("open", "os.rename", "os.rmdir", "os.remove", "shutil.rmtree")
    outcomes = set()
    for fatal in range(60):
        folder = tmp_path / str(fatal)
        checkpoints = Checkpoints(folder, Keep(policy="last"))
        checkpoints.write(Position(step=1, total=1), {}, _fill)
        child = os.fork()
        if child == 0:
            seen = 0

            def die(event: str, arguments: object, fatal: int = fatal) -> None:
                nonlocal seen
                if event in events:
                    seen += 1
                    if seen > fatal:
                        os._exit(137)

            sys.addaudithook(die)
            checkpoints.write(Position(step=2, total=2), {}, _fill)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        newest = checkpoints.newest()
        assert newest is not None
        assert (newest.folder / "c").read_text() == "c" * 100
        outcomes.add((os.waitstatus_to_exitcode(status), newest.position.total))

        # And the next process goes on from there.
        checkpoints.write(Position(step=3, total=3), {}, _fill)
        after = checkpoints.newest()
        assert after is not None
        assert after.position.total == 3
        if (0, 2) in outcomes:
            break

    assert outcomes == {(137, 1), (137, 2), (0, 2)}


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "manifest cut", "manifest gone"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str) -> None:
    """Training goes on from the one before it."""
    checkpoints = Checkpoints(tmp_path, Keep(policy="all"))
    for total in (1, 2):
        made = checkpoints.write(Position(step=total, total=total), {}, _fill)
    target = made.folder / ("checkpoint.json" if damage.startswith("manifest") else "b")
    content = target.read_bytes()
    if damage.endswith("gone"):
        target.unlink()
    else:
        target.write_bytes(content[:-5] if damage.endswith("cut") else b"x" + content[1:])

    assert read(made.folder) is None
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.position == Position(step=1, total=1)


@pytest.mark.parametrize(
    ("policy", "left"), [("best", [20, 45]), ("last", [45]), ("all", [10, 20, 30, 40, 45])]
)
def test_the_policy_says_which_stay(
    tmp_path: Path, policy: Literal["best", "last", "all"], left: list[int]
) -> None:
    """The newest always does, since training goes on from it."""
    checkpoints = Checkpoints(tmp_path, Keep(policy=policy))
    for epoch, loss in ((1, 0.5), (2, 0.3), (3, float("nan")), (4, 0.4)):
        _end(checkpoints, epoch, loss)
    checkpoints.write(Position(epoch=4, step=5, total=45), {}, _fill)

    assert [found.position.total for found in checkpoints.whole()] == left


def test_the_best_is_of_least_loss_or_else_the_last(tmp_path: Path) -> None:
    """A loss that is no number never wins."""
    judged = Checkpoints(tmp_path / "judged", Keep(policy="all"))
    for epoch, loss in ((1, float("nan")), (2, 0.3), (3, 0.3)):
        _end(judged, epoch, loss)
    blind = Checkpoints(tmp_path / "blind", Keep(policy="all"))
    for epoch in (1, 2):
        _end(blind, epoch, None)

    assert best(judged.whole()).position.epoch == 2
    assert best(blind.whole()).position.epoch == 2
