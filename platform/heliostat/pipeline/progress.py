"""Print how far a stage is, as plain lines that a terminal client turns into a live one."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import TextIO

LEAST_INTERVAL_S = 1.0


class Reporter:
    """Lines of the form ``[stage] text`` and ``[stage] 42% text``; at most one percent a second."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stdout
        self._last_s: dict[str, float] = {}

    def text(self, lines: Iterable[str]) -> None:
        """Print lines as they are: a table, an address, a command."""
        self._stream.write("".join(f"{line}\n" for line in lines))
        self._stream.flush()

    def line(self, stage: str, text: str) -> None:
        """Print one lasting line."""
        self.text([f"[{stage}] {text}"])

    def progress(self, stage: str, done: int, total: int | None, text: str) -> None:
        """Print how much is done, unless the last such line of the stage is too fresh."""
        now_s = time.monotonic()
        if now_s - self._last_s.get(stage, -LEAST_INTERVAL_S) < LEAST_INTERVAL_S:
            return
        self._last_s[stage] = now_s
        share = f"{100 * done // total}% " if total else ""
        self.line(stage, f"{share}{text}")
