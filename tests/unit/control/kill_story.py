"""Runs whole rollouts in child processes that kill themselves at each durable write in turn.

A program of its own, so that it forks without pytest's threads. It prints one JSON line.
Usage: ``python -m tests.unit.control.kill_story FOLDER [EVERY]``; with EVERY, each so-manieth point.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from heliostat.control import commands
from heliostat.rollout.plan import RolloutPlan
from heliostat.store.events import EventLog
from heliostat.store.schema import Database
from heliostat.testing.plane import FakePlane
from heliostat.testing.traffic import Behaviour, Traffic
from tests.unit.control.test_controller import GOOD, WORSE_FIT, World

PLAN = {**RolloutPlan(model="m", candidate="2").to_dict(), "steps_percent": [50, 100]}
MAX_LIVES = 5


class FilePlane(FakePlane):
    """A plane that outlives its controllers, as the real one does."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        if path.exists():
            self.running, self.policy, self.calls = pickle.loads(path.read_bytes())

    def _save(self) -> None:
        draft = self._path.with_suffix(".draft")
        draft.write_bytes(pickle.dumps((self.running, self.policy, self.calls)))
        draft.replace(self._path)

    def start_variant(self, *args: Any) -> str:
        url = super().start_variant(*args)
        self._save()
        return url

    def stop_variant(self, *args: Any) -> None:
        super().stop_variant(*args)
        self._save()

    def publish(self, *args: Any) -> None:
        super().publish(*args)
        self._save()


def live(folder: Path, candidate: Behaviour, kill_at: int | None) -> None:
    """One process: bring the rollout to its end, or die at the given call of the hook."""
    calls = 0

    def hook(_: str) -> None:
        nonlocal calls
        calls += 1
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    path = str(folder / "state.db")
    world = World.__new__(World)
    plane = FilePlane(folder / "plane")
    Database.write_hook = hook
    World.__init__(
        world, path, {"1": WORSE_FIT, "2": candidate}, requests_per_s=1500.0, plane=plane
    )
    world.traffic = Traffic(
        world.behaviours, requests_per_s=1500.0, seed=7, gateway=f"gateway-{os.getpid()}"
    )
    last = EventLog(path).last("model/m")
    if last is not None:
        world.clock.advance(max(0.0, last.at - world.clock()) + 1.0)
    world.settle()
    if world.controller.state("m").stable is None:
        world.deploy("1")
    commands.start(world.controller, PLAN, "the same request again")
    world.run(60)
    Database.write_hook = None
    rollout, stable = world.last(), str(world.controller.state("m").stable)
    (folder / "end").write_text(
        json.dumps(
            [
                rollout.outcome,
                stable,
                plane.share("m", stable),
                sorted(plane.running),
                [EventLog(path).verify(name) > 0 for name in EventLog(path).streams()],
            ]
        )
    )
    (folder / "calls").write_text(str(calls))


def lives(folder: Path, candidate: Behaviour, kill_at: int | None) -> tuple[Any, int]:
    """Processes one after the other until one reaches the end; only the first is killed."""
    folder.mkdir()
    for number in range(MAX_LIVES):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                live(folder, candidate, kill_at if number == 0 else None)
                code = 0
            except BaseException:  # noqa: BLE001 - told by the parent
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        if (folder / "end").exists():
            return json.loads((folder / "end").read_text()), number
        if not os.WIFSIGNALED(status):
            break
    raise AssertionError(f"{folder.name}: no end")


def main() -> None:
    """Print for each candidate: the end, points killed, and the ends that differ."""
    root = Path(sys.argv[1])
    every = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    told = {}
    for name, candidate in (("good", GOOD), ("bad", replace(GOOD, error_ratio=0.2))):
        (root / name).mkdir()
        end, _ = lives(root / name / "whole", candidate, None)
        points = int((root / name / "whole" / "calls").read_text())
        others, killed, tried = [], 0, range(1, points + 1, every)
        for point in tried:
            found, deaths = lives(root / name / str(point), candidate, point)
            killed += deaths > 0
            if found != end:
                others.append([point, found])
        told[name] = {
            "end": end,
            "points": points,
            "tried": len(tried),
            "killed": killed,
            "others": others,
        }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
