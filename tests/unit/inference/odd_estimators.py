"""Estimators that a locked process opens, and pickles that try what it may not do."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np


class Halves:
    """Answers half of the first number; prints, which must not disturb its answers."""

    def predict(self, table_BX: Any) -> Any:
        """One number for each row."""
        print("half", flush=True)
        return table_BX[:, 0] / 2


class Sleepy(Halves):
    """Sleeps for as long as the first number says; dies at 13."""

    def predict(self, table_BX: Any) -> Any:
        """As above, late; a missing number is no time at all."""
        if (table_BX == 13).any():
            os._exit(1)
        time.sleep(float(np.nan_to_num(table_BX[0, 0])))
        return super().predict(table_BX)


class Trying:
    """Tries what a process of its kind may not do; answers 1 for each that it was refused."""

    def __init__(self, *attempts: tuple[Any, Any]) -> None:
        self.attempts = attempts

    def predict(self, table_BX: Any) -> Any:
        """One number for each attempt, given as many rows; an empty row when it is loaded."""
        if len(table_BX) != len(self.attempts):
            return table_BX[:, 0]
        return np.array([self._is_refused(*attempt) for attempt in self.attempts], np.float32)

    @staticmethod
    def _is_refused(work: Any, word: Any) -> bool:
        try:
            work(word)
        except PermissionError:
            return True
        return False


class Doing:
    """What a pickle of this kind does when it is opened is a call of `work`."""

    def __init__(self, work: Any, *words: Any) -> None:
        self.work, self.words = work, words

    def __reduce__(self) -> Any:
        return self.work, self.words


def read(path: str) -> Any:
    """A key, say."""
    return Path(path).read_text(encoding="utf-8")


def listed(path: str) -> Any:
    """What there is to take."""
    return list(Path(path).iterdir())


def write(path: str) -> Any:
    """A back door, say."""
    return Path(path).write_text("mine", encoding="utf-8")


def remove(path: str) -> Any:
    """Evidence, say."""
    return Path(path).unlink()


def open_up(path: str) -> Any:
    """Let others read it."""
    return Path(path).chmod(0o666)


def talk(port: int) -> Any:
    """Tell somebody."""
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def throw(port: int) -> Any:
    """Tell somebody without asking whether they listen."""
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", port))


def start(path: str) -> Any:
    """Let another program do it."""
    return subprocess.run(["/bin/sh", "-c", f"echo mine > {path}"], check=True)


def end(pid: int) -> Any:
    """End who asks."""
    return os.kill(pid, signal.SIGTERM)
