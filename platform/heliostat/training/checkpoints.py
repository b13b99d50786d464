"""Checkpoints on disk: each is a folder that appears whole or not at all, and says what is in it.

Ray Train's own snapshot of checkpoints is written in place, so a kill at the wrong moment leaves
half a file; see adr/0045.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from heliostat.training.compute import Keep

FOLDER = "checkpoints"
"""Below the folder of a training."""

_MANIFEST = "checkpoint.json"
_PART = ".part"


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """Where a training stands: what comes next."""

    epoch: int = 0
    """Counts from 0."""

    step: int = 0
    """Steps of this epoch that are done."""

    total: int = 0
    """Steps done since the beginning."""

    loss_sums: tuple[float, ...] = ()
    """Each worker's sum of losses in this epoch so far."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checkpoint:
    """One whole checkpoint."""

    folder: Path
    position: Position
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Of the epoch that it ends; empty in the middle of one."""

    @property
    def ends_epoch(self) -> bool:
        """Whether it was written after the last step of an epoch."""
        return self.position.step == 0 and self.position.epoch > 0


class Checkpoints:
    """The checkpoints of one training, in one folder that only one process writes to."""

    def __init__(self, folder: Path, keep: Keep) -> None:
        """Use `folder`, which is made at the first write."""
        self._folder = folder
        self._keep = keep

    def newest(self) -> Checkpoint | None:
        """The last whole one, its bytes checked; damaged ones are passed over."""
        for folder in reversed(self._folders()):
            found = read(folder)
            if found is not None:
                return found
        return None

    def whole(self) -> list[Checkpoint]:
        """All whole ones, the oldest first."""
        return [found for found in map(read, self._folders()) if found is not None]

    def write(
        self, position: Position, metrics: Mapping[str, float], fill: Callable[[Path], None]
    ) -> Checkpoint:
        """Add a checkpoint, then drop those that the policy does not keep.

        Args:
            position: Where training goes on from it.
            metrics: Of the epoch that ended here, or empty.
            fill: Writes the files into the folder it is given.
        """
        target = self._folder / f"step-{position.total:09d}"
        scratch = target.with_suffix(_PART)
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        fill(scratch)
        files = sorted(path for path in scratch.iterdir() if path.is_file())
        manifest = {
            "position": asdict(position),
            "metrics": dict(metrics),
            "files": {path.name: _digest(path) for path in files},
        }
        (scratch / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        for path in (*files, scratch / _MANIFEST, scratch):
            _to_disk(path)
        # What is there already has this name from an earlier try, whole or not.
        shutil.rmtree(target, ignore_errors=True)
        scratch.rename(target)
        _to_disk(self._folder)
        made = Checkpoint(folder=target, position=position, metrics=dict(metrics))
        self._prune(made)
        return made

    def _folders(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(
            path
            for path in self._folder.iterdir()
            if path.name.startswith("step-") and path.suffix != _PART
        )

    def _prune(self, newest: Checkpoint) -> None:
        if self._keep.policy == "all":
            return
        stay = {newest.folder}
        if self._keep.policy == "best":
            ends = [found for found in map(_glance, self._folders()) if found and found.ends_epoch]
            if ends:
                stay.add(best(ends).folder)
        for folder in self._folders():
            if folder not in stay:
                shutil.rmtree(folder, ignore_errors=True)


def best(checkpoints: list[Checkpoint]) -> Checkpoint:
    """Of those that end an epoch, the one of least validation loss; of equal ones the first.

    Without rows held back it is the newest.
    """
    ends = [found for found in checkpoints if found.ends_epoch]
    judged = [found for found in ends if "validation_loss" in found.metrics]
    # A loss that is no number is worse than any.
    numbers = [found for found in judged if found.metrics["validation_loss"] < float("inf")]
    if numbers:
        return min(numbers, key=lambda found: found.metrics["validation_loss"])
    return max(ends, key=lambda found: found.position.total)


def read(folder: Path) -> Checkpoint | None:
    """Read a checkpoint's description if all its files are what they were when written."""
    found = _glance(folder)
    if found is None:
        return None
    files = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))["files"]
    for name, digest in files.items():
        path = folder / name
        if not path.is_file() or _digest(path) != digest:
            return None
    return found


def _glance(folder: Path) -> Checkpoint | None:
    try:
        manifest: Any = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        place = manifest["position"]
        return Checkpoint(
            folder=folder,
            position=Position(**{**place, "loss_sums": tuple(place["loss_sums"])}),
            metrics=manifest["metrics"],
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
