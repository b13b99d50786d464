"""A real PostgreSQL server of a test's own, on loopback only, that can be stopped and started."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from heliostat.testing.ports import free_ports

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


class Server:
    """Made, started and removed; skips the test, saying why, where that cannot be."""

    def __init__(self) -> None:
        if not BINARIES:
            pytest.skip("no PostgreSQL server here; apt-get install postgresql")
        if importlib.util.find_spec("psycopg") is None:
            pytest.skip("psycopg is not installed; pip install 'psycopg[binary]'")
        self._user = "postgres" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
        if os.getuid() == 0 and self._user not in {entry.pw_name for entry in pwd.getpwall()}:
            pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres")
        self._folder = Path(tempfile.mkdtemp(prefix="hp-", dir="/tmp"))
        if os.getuid() == 0:
            shutil.chown(self._folder, self._user)
        (self._port,) = free_ports(1)
        data = self._folder / "data"
        self._run(BINARIES[-1] / "initdb", "-D", data, "-A", "trust", "-U", "heliostat")
        self._control = (
            BINARIES[-1] / "pg_ctl", "-D", data, "-l", self._folder / "log", "-w",
        )  # fmt: skip
        self._number = 0
        self.start()

    @property
    def url(self) -> str:
        """The database that every server has."""
        return f"postgresql+psycopg://heliostat@127.0.0.1:{self._port}/postgres"

    def new_database(self) -> str:
        """Make an empty database and return its URL."""
        self._number += 1
        name = f"test{self._number}"
        self._run(
            BINARIES[-1] / "createdb", "-h", "127.0.0.1", "-p", str(self._port), "-U", "heliostat",
            name,
        )  # fmt: skip
        return self.url.removesuffix("postgres") + name

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-c listen_addresses=127.0.0.1 -p {self._port} -k {self._folder} -c fsync=off"
        self._run(*self._control, "-o", options, "start")

    def stop(self) -> None:
        """Stop it at once, as a crash does."""
        self._run(*self._control, "-m", "immediate", "stop")

    def remove(self) -> None:
        """Stop it if it runs, and remove everything."""
        subprocess.run(
            [*self._control, "-m", "immediate", "stop"],
            check=False, capture_output=True, cwd=self._folder, user=self._user, timeout=60,
        )  # fmt: skip
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, *command: object) -> None:
        subprocess.run(
            [str(part) for part in command],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self._folder,
            user=self._user, timeout=60,
        )  # fmt: skip
