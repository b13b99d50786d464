"""Run stages in order, and reuse the result of one whose inputs have not changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from heliostat import config
from heliostat.pipeline.progress import Reporter

Result = dict[str, Any]


class Results(Protocol):
    """Where results of finished stages are kept."""

    def get(self, key: str) -> Result | None:
        """Result stored under the key, if any."""

    def put(self, key: str, result: Result, now: datetime) -> None:
        """Store a result; the stage's output must be durable by then."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stages:
    """One run's stages; each is skipped when it has finished before with equal inputs."""

    results: Results

    reporter: Reporter

    code: str
    """Digest of the code that runs; a change makes every stage run again."""

    def run(
        self,
        name: str,
        inputs: Mapping[str, object],
        work: Callable[[str], Result],
        *,
        still_there: Callable[[Result], bool],
    ) -> Result:
        """Run the stage, or say that it is reused and return its stored result.

        Args:
            name: Shown to the user; part of the key.
            inputs: Everything that the result depends on, besides the code.
            work: Gets the stage's key, which names its run: repeated after a kill, it is the
                same. Must leave its output durable before it returns.
            still_there: Whether what a stored result points to still exists.
        """
        key = config.digest({"stage": name, "code": self.code, "inputs": dict(inputs)})
        stored = self.results.get(key)
        if stored is not None and still_there(stored):
            self.reporter.line(name, "reused: code, recipe and inputs are unchanged")
            return stored
        self.reporter.line(name, "started")
        began = time.monotonic()
        result = work(key)
        self.results.put(key, result, datetime.now(UTC))
        self.reporter.line(name, f"done in {time.monotonic() - began:.1f} s")
        return result
