"""The e2e ring: one whole platform for the session, on free ports and with a state of its own."""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from heliostat.stack import processes, record
from heliostat.stack.settings import Ports
from heliostat.testing.ports import free_ports


@dataclass(frozen=True, kw_only=True, slots=True)
class LivePlatform:
    """A platform that is up, driven by its command line as a person would."""

    repository: Path
    home: Path
    endpoint: str
    environment: dict[str, str]

    def run(self, *arguments: str, timeout_s: float = 280) -> subprocess.CompletedProcess[str]:
        """Run ``heliostat <arguments>`` for this platform and return how it ended."""
        return subprocess.run(
            [sys.executable, "-m", "heliostat", *arguments],
            env=self.environment,
            cwd=self.repository,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )

    def members(self) -> dict[int, str]:
        """Processes of the platform with their command lines."""
        known = record.read(self.home)
        return processes.members(self.home, known.leaders if known else [])


def platform_ports() -> dict[str, int]:
    """A free loopback port for each port of the platform, all different."""
    names = [field.name for field in dataclasses.fields(Ports)]
    return dict(zip(names, free_ports(len(names)), strict=True))


def new_platform(repository: Path, home: Path, *assignments: str) -> LivePlatform:
    """Describe a platform on free ports with this state folder; nothing is started."""
    ports = platform_ports()
    kept = {"PATH", "LANG", "TMPDIR"}
    settings = [f"ports.{name}={port}" for name, port in ports.items()]
    return LivePlatform(
        repository=repository,
        home=home,
        endpoint=f"http://127.0.0.1:{ports['serve']}",
        environment={
            **{key: value for key, value in os.environ.items() if key in kept},
            "PYTHONPATH": f"{repository / 'platform'}{os.pathsep}{repository}",
            # A HOME in which even root can make no file.
            "HOME": "/sys",
            "HELIOSTAT_HOME": str(home),
            "HELIOSTAT_SET": shlex.join([*settings, *assignments]),
        },
    )


@pytest.fixture(scope="session")
def live_platform(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LivePlatform]:
    """A platform that is up, in a state folder with a long name with spaces; down at the end.

    Tests of its crash are in ``test_teardown.py``, whose name comes last.
    """
    home = tmp_path_factory.mktemp("home") / ("a long name " * 8).strip()
    platform = new_platform(repository, home)
    started = platform.run("up")
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        yield platform
    finally:
        ended = platform.run("down")
    assert ended.returncode == 0, ended.stdout + ended.stderr
