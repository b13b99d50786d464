"""Metrics on their way to MLflow: kept on disk first, so that an absence loses none."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from heliostat.errors import HeliostatError
from heliostat.registry.tracking import Tracking

EPOCH, STEP, SYSTEM = "epoch", "step", "system"
"""Series of points; each counts its own steps."""

_LINES, _SENT = "metrics.jsonl", "metrics.sent"
_LINES_PER_CALL = 250


class MetricLog:
    """The writing end: one process appends points, in the order of their steps.

    A training that goes on from a checkpoint repeats steps; the first report of each stays, so
    that MLflow has one point for each.
    """

    def __init__(self, folder: Path, *, patience_s: float = 60.0) -> None:
        """Go on with the file in `folder`, which must exist; a line that a kill cut is dropped.

        Args:
            folder: Of the training.
            patience_s: How long to wait for an earlier writer that is about to go.

        Raises:
            HeliostatError: Another process still writes this training.
        """
        path = folder / _LINES
        self._file: IO[bytes] = path.open("ab")
        _lock(self._file, path, patience_s)
        self._last: dict[str, int] = {}
        whole = 0
        for end, line in _lines(path, 0):
            self._last[line["series"]] = line["step"]
            whole = end
        self._file.truncate(whole)

    def add(self, series: str, step: int, metrics: Mapping[str, float], at_ms: int) -> None:
        """Append the values of one step; a step that is there already is ignored."""
        if step <= self._last.get(series, -1):
            return
        line = {"series": series, "step": step, "at_ms": at_ms, "metrics": dict(metrics)}
        self._file.write(json.dumps(line).encode() + b"\n")
        self._last[series] = step

    def flush(self, *, to_disk: bool = False) -> None:
        """Hand what was added to the reading end, and with `to_disk` make it survive a crash."""
        self._file.flush()
        if to_disk:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Write what is left."""
        self._file.close()


class MetricSpool:
    """The reading end: sends to MLflow what it does not have yet."""

    def __init__(self, folder: Path) -> None:
        """Read the file that a `MetricLog` writes in `folder`."""
        self._lines = folder / _LINES
        self._sent = folder / _SENT
        self._position = 0
        self._epochs: dict[int, dict[str, float]] = {}

    def epochs(self) -> Mapping[int, Mapping[str, float]]:
        """Metrics of each epoch so far."""
        for end, line in _lines(self._lines, self._position):
            self._position = end
            if line["series"] == EPOCH:
                self._epochs[line["step"]] = line["metrics"]
        return self._epochs

    def wait_for_writer(self, patience_s: float) -> bool:
        """Wait until no process writes; return whether that has come about in time."""
        until_s = time.monotonic() + patience_s
        while True:
            try:
                with self._lines.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except FileNotFoundError:
                return True
            except BlockingIOError:
                if time.monotonic() >= until_s:
                    return False
                time.sleep(0.1)
            else:
                return True

    def num_waiting(self) -> int:
        """Points that MLflow does not have yet."""
        return sum(len(line["metrics"]) for _, line in _lines(self._lines, self._offset()))

    def send(self, tracking: Tracking, run_id: str) -> None:
        """Log what MLflow does not have yet.

        A kill between logging and taking note of it sends a point again with the same time;
        MLflow keeps one of them.

        Raises:
            Unavailable: MLflow does not answer; call again later.
        """
        batch: list[tuple[int, int, Mapping[str, float]]] = []
        end = 0
        for end, line in _lines(self._lines, self._offset()):
            batch.append((line["step"], line["at_ms"], line["metrics"]))
            if len(batch) == _LINES_PER_CALL:
                self._log(tracking, run_id, batch, end)
                batch = []
        if batch:
            self._log(tracking, run_id, batch, end)

    def _log(
        self,
        tracking: Tracking,
        run_id: str,
        batch: list[tuple[int, int, Mapping[str, float]]],
        end: int,
    ) -> None:
        tracking.log_timed_metrics(run_id, batch)
        scratch = self._sent.with_suffix(".part")
        scratch.write_text(str(end), encoding="utf-8")
        scratch.replace(self._sent)

    def _offset(self) -> int:
        try:
            return int(self._sent.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return 0


def _lock(file: IO[bytes], path: Path, patience_s: float) -> None:
    """Be the only writer; the kernel lets go of the lock when its process dies, however."""
    until_s = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until_s:
                raise HeliostatError(
                    f"training {path.parent} is written by another process; end that one first"
                ) from None
            time.sleep(0.1)
        else:
            return


def _lines(path: Path, start: int) -> Iterator[tuple[int, Any]]:
    """Whole lines from a byte on, each with the byte after it."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            content = file.read()
    except FileNotFoundError:
        return
    end = start
    for line in content.splitlines(keepends=True):
        if not line.endswith(b"\n"):
            return
        end += len(line)
        yield end, json.loads(line)
