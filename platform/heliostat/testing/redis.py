"""A real Redis server on loopback for tests and benchmarks."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path

from heliostat.errors import Unavailable
from heliostat.testing.ports import free_ports


def is_installed() -> bool:
    """Whether there is a ``redis-server`` to start."""
    return shutil.which("redis-server") is not None


class RedisServer:
    """A server on loopback that can be stopped in every way, and keeps nothing unless asked to."""

    def __init__(self, folder: Path, *, keeps_data: bool = False) -> None:
        """Choose a port; nothing runs yet.

        Args:
            folder: Where the server works.
            keeps_data: Whether what was written is there again after `kill` and `start`.
        """
        self.port = free_ports(1)[0]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._appends = "yes" if keeps_data else "no"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; return when it answers, with what it keeps loaded."""
        program = shutil.which("redis-server")
        assert program is not None
        self._process = subprocess.Popen(
            [
                program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
                "--appendonly", self._appends, "--appendfsync", "no", "--dir", str(self._folder), "--loglevel", "warning",
            ],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        until = time.monotonic() + 30
        while True:
            answer = self._ping()
            if answer == "+PONG":
                return
            if time.monotonic() > until:
                raise Unavailable("redis-server", answer)
            time.sleep(0.02)

    def _ping(self) -> str:
        """What it says to a PING: an error while it loads, or why there is no answer."""
        try:
            with closing(socket.create_connection(("127.0.0.1", self.port), 1)) as line:
                line.sendall(b"PING\r\n")
                return line.recv(256).decode(errors="replace").strip()
        except OSError as error:
            return str(error)

    def kill(self) -> None:
        """End it at once; what it held is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None

    def hang(self) -> None:
        """Stop it: it accepts connections and answers nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let a stopped one go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
