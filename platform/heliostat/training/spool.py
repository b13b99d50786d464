"""Epoch metrics on their way to MLflow: kept on disk first, so that an absence loses none."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from heliostat.registry.tracking import Tracking


class MetricSpool:
    """A growing file of (step, metrics) and the number of lines that MLflow has.

    The training's controller appends, its driver sends. After a restart an epoch may be
    reported again; the first report stays.
    """

    def __init__(self, folder: Path) -> None:
        """Keep the files in `folder`, which must exist."""
        self._lines = folder / "metrics.jsonl"
        self._sent = folder / "metrics.sent"

    def append(self, step: int, metrics: dict[str, float]) -> None:
        """Keep one step's metrics on disk; a step that is there already is ignored."""
        known = self.read()
        if any(step == earlier for earlier, _ in known):
            return
        # The whole small file anew: appending to a line that a kill cut would spoil both.
        scratch = self._lines.with_suffix(".part")
        with scratch.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in [*known, (step, metrics)])
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(self._lines)

    def read(self) -> list[tuple[int, dict[str, float]]]:
        """All steps so far, in the order of their arrival."""
        try:
            text = self._lines.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        return [(step, metrics) for step, metrics in map(json.loads, text.splitlines())]

    def send(self, tracking: Tracking, run_id: str) -> None:
        """Log what MLflow does not have yet.

        A kill between logging and taking note of it makes a point appear twice, never get lost.

        Raises:
            Unavailable: MLflow does not answer; call again later.
        """
        steps = self.read()
        sent = int(self._sent.read_text()) if self._sent.exists() else 0
        if len(steps) > sent:
            tracking.log_metric_steps(run_id, steps[sent:])
            self._sent.write_text(str(len(steps)), encoding="utf-8")


class KeepReports:
    """Puts what the workers report on disk, from Ray Train's controller."""

    def __init__(self, folder: Path) -> None:
        """Spool in `folder`; whoever waits for the training sends it on."""
        self._spool = MetricSpool(folder)

    def report(self, metrics: Sequence[Mapping[str, Any]]) -> None:
        """Keep the metrics of one report; those of the first worker count for all."""
        numbers = {name: float(value) for name, value in metrics[0].items()}
        step = int(numbers.pop("epoch"))
        self._spool.append(step, numbers)
