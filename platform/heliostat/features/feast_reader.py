"""Feast's own reader, in a process of its own, for services with types that ours cannot decode."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import Any

from heliostat import telemetry
from heliostat.config import require
from heliostat.errors import ConfigError, Unavailable
from heliostat.features.lookups import Keys
from heliostat.features.packed import microseconds

_WINDOW = 4
"""Questions that the process has at a time; who gave up before it was sent costs it nothing."""

_HUNG_S = 30.0
_CHECK_S = 10.0
_RESTART_S = 30.0
_READ_TIMEOUT_S = 10.0
_STARTING = "is starting"


class FeastProcess:
    """One process with Feast in it, for one repository; another one when it dies or hangs.

    To import Feast takes 10 s of processor time and 400 MB, so it is begun long before the first
    question, and nobody waits for it: until it is ready questions fail at once.
    """

    def __init__(
        self,
        repository: Path,
        *,
        restart_s: float = _RESTART_S,
        hung_s: float = _HUNG_S,
        check_s: float = _CHECK_S,
        module: str = "heliostat.features.feast_process",
    ) -> None:
        """Take where the project lies; starts nothing.

        Args:
            repository: Folder of ``feature_store.yaml``.
            restart_s: Time between the end of a process and the start of the next.
            hung_s: Silence after which it is ended.
            check_s: How old what it knows of a service may be: a changed one is noticed then.
            module: The program that it runs.
        """
        self.repository = repository
        self._hung_s, self._check_s = hung_s, check_s
        self._module = module
        self._restart_s = restart_s
        self._changed = threading.Condition()
        self._process: subprocess.Popen[bytes] | None = None
        self._started = self._closed = False
        self._waiting: deque[tuple[Future[Any], bytes]] = deque()
        self._sent: deque[tuple[Future[Any], float]] = deque()
        self._problem = "has not been started"
        self.is_ready = False

    def start(self) -> None:
        """Begin, once; returns at once."""
        with self._changed:
            if self._started:
                return
            self._started = True
            self._problem = _STARTING
        for work in (self._run, self._write):
            threading.Thread(target=work, name="feast-reader", daemon=True).start()

    def ask(self, question: object) -> Future[Any]:
        """Put a question; its answer, or why there is none, comes in another thread."""
        answer: Future[Any] = Future()
        with self._changed:
            if not self.is_ready:
                answer.set_exception(self._unavailable())
                return answer
            if self._sent and time.monotonic() - self._sent[0][1] > self._hung_s:
                self._problem = f"has not answered for {self._hung_s:g} s"
                self._kill()
            self._waiting.append((answer, json.dumps(question).encode() + b"\n"))
            self._changed.notify_all()
        return answer

    def close(self) -> None:
        """End the process, for good."""
        with self._changed:
            self._closed = True
            self._problem = "was closed"
            self._kill()
            self._changed.notify_all()

    def _kill(self) -> None:
        self.is_ready = False
        if self._process is not None:
            self._process.kill()

    def _run(self) -> None:
        while not self._closed:
            try:
                with self._begin() as process:
                    assert process.stdout is not None
                    for line in process.stdout:
                        self._heard(json.loads(line))
                ended = f"ended with {process.returncode}"
            except OSError as error:
                ended = f"cannot be started or ended: {error}"
            self._ended(ended)

    def _ended(self, how: str) -> None:
        """Tell those who wait, then wait for the time of the next start."""
        with self._changed:
            if self.is_ready or self._problem == _STARTING:
                self._problem = how
            self.is_ready = False
            lost = [answer for answer, _ in self._sent]
            lost += [each for each, _ in self._waiting if each.set_running_or_notify_cancel()]
            self._sent.clear()
            self._waiting.clear()
        telemetry.event("features.feast_reader", is_ready=False, problem=self._problem)
        for answer in lost:
            answer.set_exception(self._unavailable())
        with self._changed:
            self._changed.wait_for(lambda: self._closed, timeout=self._restart_s)

    def _begin(self) -> subprocess.Popen[bytes]:
        source = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
        process = subprocess.Popen(
            [sys.executable, "-m", self._module, str(self.repository), str(self._check_s)],
            env={**os.environ, "PYTHONPATH": path, "FEAST_USAGE": "False"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with self._changed:
            self._process = process
            if self._closed:
                process.kill()
        return process

    def _heard(self, message: dict[str, Any]) -> None:
        if "ready" in message:
            with self._changed:
                self.is_ready = not self._closed
            telemetry.event("features.feast_reader", is_ready=True, problem=None)
            return
        if "broken" in message:
            self._problem = str(message["broken"])
            return
        with self._changed:
            answer, _ = self._sent.popleft()
            self._changed.notify_all()
        if "found" in message:
            answer.set_result(message["found"])
        elif "refused" in message:
            where, value, rule = message["refused"]
            answer.set_exception(ConfigError(where, value, rule))
        else:
            answer.set_exception(
                Unavailable(f"Feast's reader of {self.repository}", str(message["problem"]))
            )

    def _write(self) -> None:
        """Send what waits; in a thread, since a process that hangs takes nothing from its pipe."""
        while True:
            with self._changed:
                self._changed.wait_for(self._may_send)
                if self._closed:
                    return
                answer, line = self._waiting.popleft()
                if not answer.set_running_or_notify_cancel():
                    continue
                self._sent.append((answer, time.monotonic()))
                process = self._process
            assert process is not None
            assert process.stdin is not None
            try:
                process.stdin.write(line)
                process.stdin.flush()
            except (OSError, ValueError):
                # It has ended, and its pipe may be closed already (ValueError); who reads from it
                # tells those who wait.
                continue

    def _may_send(self) -> bool:
        return self._closed or (self.is_ready and bool(self._waiting) and len(self._sent) < _WINDOW)

    def _unavailable(self) -> Unavailable:
        return Unavailable(f"Feast's reader of {self.repository}", self._problem)


class FeastReader:
    """Reads the features of a service of a Feast project, of whatever types.

    Safe in many threads, and in an event loop. Feast does not enforce the time to live online;
    this does, to the precision in which the store keeps event times.
    """

    kind = "feast"

    def __init__(self, process: FeastProcess, service: str, views: Sequence[Any]) -> None:
        """Prepare; asks nothing yet.

        Args:
            process: Of the service's project.
            service: Its name in the project's registry.
            views: As a model package names them.
        """
        self._process = process
        self._service = service
        self._versions = {view.name: view.version for view in views}
        self._keys = tuple(dict.fromkeys(key for view in views for key in view.keys))

    def read(self, keys: Keys, at: datetime | None) -> dict[str, list[Any]]:
        """Look up one or more rows.

        Args:
            keys: Values of each key, all of one length; None matches nothing.
            at: The moment to read as of: values older than their view's time to live are
                missing, and so are values newer than `at`. None takes this machine's clock for
                the time to live, and every value that is stored.

        Returns:
            Every feature of the service, as `heliostat.features.feast_process.plain` gives
            values; None where missing.

        Raises:
            ConfigError: A key is missing or of another type, or lengths differ.
            Unavailable: Feast is not ready, failed, or has another definition of a view.
        """
        found: dict[str, list[Any]] = self._ask(keys, at).result(timeout=_READ_TIMEOUT_S)
        return found

    async def fetch(self, keys: Keys, at: datetime | None) -> dict[str, list[Any]]:
        """Look up rows without holding up the event loop; see `read`."""
        found: dict[str, list[Any]] = await asyncio.wrap_future(self._ask(keys, at))
        return found

    def _ask(self, keys: Keys, at: datetime | None) -> Future[Any]:
        length: int | None = None
        for name in self._keys:
            require(name in keys, "entity keys", name, "must be given")
            length = len(keys[name]) if length is None else length
            require(
                len(keys[name]) == length, f"entity key {name}", len(keys[name]),
                f"must have {length} values, as the other keys",
            )  # fmt: skip
        return self._process.ask(
            {
                "service": self._service,
                "versions": self._versions,
                "keys": {name: list(keys[name]) for name in self._keys},
                "at_us": time.time_ns() // 1000 if at is None else microseconds(at),
                "latest_us": None if at is None else microseconds(at),
            }
        )
