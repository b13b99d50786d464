from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from heliostat.errors import ConfigError
from heliostat.stack import local, processes, sockets
from heliostat.stack.settings import Ports, StackSettings


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """A socket that listens on some port of 127.0.0.1."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening


def test_a_taken_port_names_its_holder_and_the_setting(
    server: socket.socket, tmp_path: Path, repository: Path
) -> None:
    """`up` refuses before it starts anything; the message is enough to go on."""
    port = server.getsockname()[1]
    settings = dataclasses.replace(StackSettings(), ports=Ports(mlflow=port, serve=20001))
    free = {name: 20000 + i for i, name in enumerate(dataclasses.asdict(settings.ports))}
    settings = dataclasses.replace(settings, ports=Ports(**{**free, "mlflow": port}))
    with pytest.raises(ConfigError) as caught:
        local.up(tmp_path / "h", repository, settings, environ_now={}, say=lambda _: None)
    command = processes.command_line(os.getpid())[:80]
    assert str(caught.value) == (
        f"ports.mlflow = {port}: must be free; {command} (pid {os.getpid()}) listens there. "
        f"End that process, or choose another port: heliostat up --set ports.mlflow={port + 1} "
        f"(or HELIOSTAT_SET=ports.mlflow={port + 1})"
    )
    assert not (tmp_path / "h" / "stack.json").exists()


def test_listening_sockets_are_read_from_the_kernel(server: socket.socket) -> None:
    """Address, port and holder are those of the socket itself."""
    port = server.getsockname()[1]
    assert sockets.Endpoint(address="127.0.0.1", port=port, pid=os.getpid()) in sockets.listening(
        [os.getpid()]
    )
    assert not sockets.is_free(port)


@pytest.mark.parametrize(
    ("address", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("::ffff:10.0.0.1", False),
        ("192.0.2.2", False),
    ],
)
def test_loopback_is_told_from_the_rest(address: str, is_loopback: bool) -> None:
    """IPv4 addresses written as IPv6 count as what they are."""
    assert sockets.Endpoint(address=address, port=1, pid=None).is_loopback is is_loopback


def test_nobody_listens_on_a_closed_port(server: socket.socket) -> None:
    """A port is free again once its server is gone."""
    port = server.getsockname()[1]
    server.close()
    assert sockets.is_free(port)
    assert sockets.holder_of(port) is None
