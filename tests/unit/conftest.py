"""The unit ring starts no Ray and leaves the machine's network alone."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import pytest


class _NoRay:
    """Makes `ray.init` raise as soon as some code under test imports ray."""

    def refuse(self, *_: object, **__: object) -> None:
        raise AssertionError("unit tests start no Ray; put this test into tests/local")


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ray is refused where it is loaded already, and found loaded but not started afterwards."""
    if "ray" in sys.modules:
        monkeypatch.setattr(sys.modules["ray"], "init", _NoRay().refuse)
    yield
    ray = sys.modules.get("ray")
    assert ray is None or not ray.is_initialized(), "a unit test started Ray"


@pytest.fixture(autouse=True)
def _only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that leaves the machine fails at once."""
    connect = socket.socket.connect

    def checked(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = address[0] if isinstance(address, tuple) else address
            assert host in {"127.0.0.1", "::1", "localhost"}, f"unit test connects to {host}"
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", checked)
