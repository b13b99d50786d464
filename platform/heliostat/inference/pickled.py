"""A pickled estimator as a network: it is opened in a locked process of its own, never here."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from heliostat import telemetry
from heliostat.errors import ConfigError, Unavailable
from heliostat.inference.pickled_child import ANSWERS, ASK, ERROR, READY, TELL

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHILD = "heliostat.inference.pickled_child"
_START_S, _ANSWER_S, _ANSWER_ROW_S = 120.0, 1.0, 0.001
_SYSTEM = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo",
    "/etc/ld.so.cache", "/etc/localtime", "/dev/null", "/dev/urandom", "/proc/cpuinfo",
    "/proc/meminfo", "/proc/stat", "/sys/devices/system/cpu",
)  # fmt: skip
_CODE = frozenset({".py", ".so"})


class PickledNetwork:
    """Answers as the estimator of one pickle does. Safe to call from several threads."""

    def __init__(self, path: Path, *, num_numeric: int, num_categorical: int) -> None:
        """Start the process, which opens the pickle and answers one empty row.

        Raises:
            ConfigError: The pickle cannot be opened, or this kernel cannot lock a process up.
        """
        self._path = path
        self._width = {"numeric": num_numeric, "categorical": num_categorical}
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._start()

    def get_inputs(self) -> Sequence[Any]:
        """Name and shape of each tensor."""
        return [
            SimpleNamespace(name=name, shape=["rows", width])
            for name, width in self._width.items()
            if width
        ]

    def get_outputs(self) -> Sequence[Any]:
        """The one answer of each row."""
        return [SimpleNamespace(name="score", shape=["rows"])]

    def run(self, outputs: Sequence[str], feed: Mapping[str, NDArray[Any]], /) -> Sequence[Any]:
        """Ask the process; shape (B,).

        Raises:
            Unavailable: It died or did not answer in time, a second and a millisecond for each
                row; another one is on its way.
        """
        del outputs
        num_rows = len(next(iter(feed.values())))
        parts = [ASK.pack(num_rows, self._width["numeric"], self._width["categorical"])]
        for name, kind in (("numeric", np.float32), ("categorical", np.int64)):
            if self._width[name]:
                parts.append(np.ascontiguousarray(feed[name], kind).tobytes())
        with self._lock:
            if self._process is None:
                raise self._unavailable("is being started again")
            try:
                limit_s = _ANSWER_S + _ANSWER_ROW_S * num_rows
                kind_found, content = self._process.ask(b"".join(parts), limit_s, 4 * num_rows)
            except (OSError, ValueError) as error:
                self._process.end()
                self._process = None
                threading.Thread(target=self._start_again, daemon=True).start()
                raise self._unavailable(str(error)) from error
        if kind_found == ERROR:
            raise self._unavailable(content.decode(errors="replace"))
        return [np.frombuffer(content, np.float32)]

    def _start(self) -> None:
        process = _Process(self._path, self._width)
        try:
            kind, content = process.receive(_START_S, 0)
        except (OSError, ValueError) as error:
            kind, content = ERROR, str(error).encode()
        if kind != READY:
            process.end()
            raise ConfigError(
                str(self._path), content.decode(errors="replace"),
                "must be a pickle that a locked process can open here",
            )  # fmt: skip
        # Without this network nobody asks the process any more.
        weakref.finalize(self, process.end)
        self._process = process

    def _start_again(self) -> None:
        try:
            self._start()
        except ConfigError as error:
            telemetry.event("pickle.gone", path=str(self._path), problem=str(error)[:300])

    def _unavailable(self, problem: str) -> Unavailable:
        return Unavailable(f"pickled estimator {self._path}", problem)


class _Process:
    """The child, and frames to and from it, each within a time."""

    def __init__(self, path: Path, width: Mapping[str, int]) -> None:
        where = {
            "pickle": str(path),
            "readable": [str(path), *_SYSTEM, *map(str, readable(sys.path))],
            "listable": [str(entry) for entry in _folders(sys.path)],
            **width,
        }
        self._child = subprocess.Popen(
            [sys.executable, "-s", "-B", "-m", _CHILD, json.dumps(where)],
            # Nothing of this process's: neither its secrets nor where it stands.
            env={
                "PYTHONPATH": os.pathsep.join(map(str, _folders(sys.path))), "LANG": "C.UTF-8",
                "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
            },
            cwd="/", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True, bufsize=0,
        )  # fmt: skip
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._to, self._from = self._child.stdin.fileno(), self._child.stdout.fileno()
        for handle in (self._to, self._from):
            os.set_blocking(handle, False)

    def ask(self, frame: bytes, limit_s: float, answer_bytes: int) -> tuple[bytes, bytes]:
        """Send a frame, return the answer's kind and content."""
        until_s = time.monotonic() + limit_s
        rest = memoryview(frame)
        while rest:
            _wait(self._to, select.POLLOUT, until_s)
            with contextlib.suppress(BlockingIOError):
                rest = rest[os.write(self._to, rest) :]
        return self.receive(until_s - time.monotonic(), answer_bytes)

    def receive(self, limit_s: float, answer_bytes: int) -> tuple[bytes, bytes]:
        """Read a frame that holds an error, or content of the size expected."""
        until_s = time.monotonic() + limit_s
        kind, size = TELL.unpack(self._read(TELL.size, until_s))
        expected = {READY: 0, ANSWERS: answer_bytes}.get(kind)
        if kind != ERROR and size != expected:
            raise ValueError("it answers with something else than scores")
        return kind, self._read(min(size, 1 << 16) if kind == ERROR else size, until_s)

    def _read(self, count: int, until_s: float) -> bytes:
        found = bytearray()
        while len(found) < count:
            _wait(self._from, select.POLLIN, until_s)
            with contextlib.suppress(BlockingIOError):
                part = os.read(self._from, count - len(found))
                if not part:
                    raise OSError("its process has died")
                found += part
        return bytes(found)

    def end(self) -> None:
        """Kill the process and what it may have started."""
        # Of a child that has been waited for, the number may be another process's by now.
        if self._child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                stream.close()


def readable(search_path: Sequence[str]) -> Iterator[Path]:
    """Code on Python's search path: installed packages, and of other folders what holds code.

    Data, keys and the platform's own files lie beside code in a clone, so not all of it.
    """
    installed = tuple({Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)})
    for folder in _folders(search_path):
        if any(folder.is_relative_to(prefix) for prefix in installed):
            yield folder
            continue
        for entry in folder.iterdir():
            if entry.name.startswith("."):
                continue
            if entry.suffix in _CODE if entry.is_file() else _holds_code(entry):
                yield entry


def _holds_code(folder: Path) -> bool:
    return any(entry.suffix in _CODE for entry in folder.iterdir())


def _folders(search_path: Sequence[str]) -> Iterator[Path]:
    for entry in search_path:
        folder = Path(entry or ".").resolve()
        if folder.is_dir():
            yield folder


def _wait(handle: int, event: int, until_s: float) -> None:
    poll = select.poll()
    poll.register(handle, event)
    left_s = until_s - time.monotonic()
    if left_s <= 0 or not poll.poll(left_s * 1000):
        raise TimeoutError("it did not answer in time")
