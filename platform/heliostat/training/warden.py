"""A small process beside a driver: when the driver dies, it ends the MLflow runs that it owned.

``python -m heliostat.training.warden URI TOKEN STORAGE`` reads words from its standard input: a
status is how runs are to be ended, ``done`` means that all have ended. The end of input without
``done`` means that the driver is gone, whatever killed it: the kernel closes the pipe.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast

from heliostat.errors import HeliostatError, Unavailable
from heliostat.registry.tracking import Status, Tracking
from heliostat.training.spool import MetricSpool

TAG = "heliostat.driver"
"""Tag of runs that names the driver they belong to."""

_SOURCE = str(Path(__file__).resolve().parents[2])
"""The warden runs the driver's own code, wherever that was found."""

_RETRY_S = 5.0
_WRITER_S = 20.0
_PATIENCE_S = 3600.0
"""How long MLflow may be away before the runs are left to `Tracking.reap`."""


class Warden:
    """The driver's end; use it as a context around the work."""

    def __init__(self, tracking: Tracking, token: str, storage: Path) -> None:
        """Start the process.

        Args:
            tracking: Where the runs are.
            token: Value of the tag `TAG` of the runs that it looks after.
            storage: Folder in which each run's metrics are spooled, below its id.
        """
        path = os.environ.get("PYTHONPATH")
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, tracking.uri, token, str(storage)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            # Not in the driver's group: what stops the driver's group must not stop it.
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [_SOURCE, path]))},
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._pipe.close()
        if self._process.returncode is None and self._told_done:
            self._process.wait()

    def tell(self, word: Status | str) -> None:
        """Say how runs are to be ended if this process does not live to do it, or ``done``."""
        self._told_done = word == "done"
        try:
            self._pipe.write(f"{word}\n".encode())
            self._pipe.flush()
        except BrokenPipeError:
            # Without a warden the next run ends what is left.
            return

    _told_done = False

    @property
    def _pipe(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin


def end_runs(tracking: Tracking, token: str, storage: Path, status: Status) -> list[str]:
    """Send what the token's runs have spooled, end those that are RUNNING, return their ids.

    A worker that outlives its driver for a moment is waited for.

    Raises:
        Unavailable: MLflow does not answer; call again.
    """
    for run_id in tracking.tagged(TAG, token):
        # A trial of a search has a folder of its own.
        for folder in (storage / run_id, *storage.glob(f"trials/*/{run_id}")):
            spool = MetricSpool(folder)
            spool.wait_for_writer(_WRITER_S)
            spool.send(tracking, run_id)
    # Asked anew: while workers were waited for, another driver may have gone on with a run.
    running = [run_id for run_id, was in tracking.tagged(TAG, token).items() if was == "RUNNING"]
    for run_id in running:
        tracking.finish(run_id, status)
    return running


def main(arguments: list[str]) -> None:
    """Wait for the driver's end, then do what is left."""
    uri, token, storage = arguments
    status: Status = "KILLED"
    for line in sys.stdin:
        word = line.strip()
        if word == "done":
            return
        status = cast("Status", word)
    tracking, until_s = Tracking(uri), time.monotonic() + _PATIENCE_S
    while time.monotonic() < until_s:
        try:
            end_runs(tracking, token, Path(storage), status)
        except Unavailable:
            time.sleep(_RETRY_S)
        except HeliostatError:
            return
        else:
            return


if __name__ == "__main__":
    main(sys.argv[1:])
