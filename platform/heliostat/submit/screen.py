"""How a job's output is shown: a live line on a terminal, the plain lines anywhere else.

A job reports progress in lines of the form ``[stage] NN% text``; all others are just text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

_PROGRESS = re.compile(r"^\[(?P<stage>[\w .:/-]{1,60})\] +(?P<percent>\d{1,3})%(?: (?P<text>.*))?$")
_RAYS_OWN = re.compile(r"^Running entrypoint for job |INFO job_manager\.py:\d+ --")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressLine:
    """One report of progress."""

    stage: str
    percent: int
    text: str


def parse(line: str) -> ProgressLine | None:
    """Read a line of progress; None for any other line.

    >>> parse("[train] 40% epoch 2 of 5")
    ProgressLine(stage='train', percent=40, text='epoch 2 of 5')
    >>> parse("[train] begins") is None
    True
    """
    match = _PROGRESS.match(line.rstrip())
    if match is None or int(match["percent"]) > 100:
        return None
    return ProgressLine(
        stage=match["stage"], percent=int(match["percent"]), text=match["text"] or ""
    )


class Screen:
    """Writes a job's output; a context manager, so that the live line goes away at the end.

    Args:
        stream: Where to write. On a terminal progress is one live line under the text that
            scrolls; elsewhere each line is written as it comes.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._rest = ""
        self._console: Console | None = None
        self._status: Status | None = None
        if stream.isatty():
            from rich.console import Console as RichConsole

            self._console = RichConsole(file=stream, highlight=False, soft_wrap=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.feed("\n" if self._rest else "")
        self._clear()

    def feed(self, text: str) -> None:
        """Take output as it comes, in pieces of any size."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if not _RAYS_OWN.search(line):
                self._show(line)

    def say(self, line: str) -> None:
        """Write a line of our own."""
        self._show(line)

    def wait(self, text: str) -> None:
        """Show what is waited for; a live line on a terminal, nothing elsewhere."""
        if self._console is None:
            return
        if self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        else:
            self._status.update(text)

    def _show(self, line: str) -> None:
        progress = parse(line)
        if self._console is None:
            self._stream.write(line + "\n")
            self._stream.flush()
        elif progress is None:
            self._console.print(line, markup=False)
        elif progress.percent == 100:
            self._console.print(f"{progress.stage}: {progress.text or 'done'}", markup=False)
            self.wait("")
        else:
            filled = progress.percent // 5
            bar = "#" * filled + "." * (20 - filled)
            self.wait(f"{progress.stage} {bar} {progress.percent}% {progress.text}")

    def _clear(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None
