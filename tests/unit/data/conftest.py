"""Servers that speak an outside system's protocol, each on loopback and ended with the session."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_for(port: int, child: subprocess.Popen[bytes], log: Path) -> None:
    """Return once something answers on the port; fail with its log if the child ends."""
    for _ in range(600):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert child.poll() is None, log.read_text()
        time.sleep(0.05)
    raise AssertionError(f"nothing answers on port {port}: {log.read_text()}")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Storage options for an S3 server (moto, a process of its own) with a bucket `lake`."""
    pytest.importorskip("moto", reason="S3 is tested against moto: pip install heliostat[dev]")
    folder = tmp_path_factory.mktemp("s3")
    port = free_port()
    log = folder / "moto.log"
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=output, stderr=output,
        )  # fmt: skip
    try:
        wait_for(port, child, log)
        options = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "test-key-id",
            "AWS_SECRET_ACCESS_KEY": "test-secret-key",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }
        from pyarrow.fs import S3FileSystem

        S3FileSystem(
            access_key="test-key-id", secret_key="test-secret-key", region="us-east-1",
            endpoint_override=f"127.0.0.1:{port}", scheme="http", allow_bucket_creation=True,
        ).create_dir("lake")  # fmt: skip
        yield options
    finally:
        child.terminate()
        child.wait(10)
