"""Servers that speak an outside system's protocol, each on loopback and ended with the session."""

from __future__ import annotations

import base64
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from heliostat.testing.ports import free_ports


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
    (port,) = free_ports(1)
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


@pytest.fixture(scope="session")
def azure() -> Iterator[dict[str, str]]:
    """Storage options for Azurite, Microsoft's own emulator, with a container `lake`."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("Azure is tested against Azurite: npm install --global azurite")
    (port,) = free_ports(1)
    key = base64.b64encode(b"test-key-of-the-emulator").decode()
    with tempfile.TemporaryDirectory(prefix="ht-azure-") as name:
        log = Path(name) / "azurite.log"
        with log.open("wb") as output:
            child = subprocess.Popen(
                [program, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", name,
                 "--skipApiVersionCheck", "--disableTelemetry"],
                env={**os.environ, "AZURITE_ACCOUNTS": f"lakeaccount:{key}"},
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        try:
            wait_for(port, child, log)
            from pyarrow.fs import AzureFileSystem

            authority = f"127.0.0.1:{port}"
            AzureFileSystem(
                account_name="lakeaccount", account_key=key,
                blob_storage_authority=authority, blob_storage_scheme="http",
                dfs_storage_authority=authority, dfs_storage_scheme="http",
            ).create_dir("lake")  # fmt: skip
            yield {
                "AZURE_STORAGE_ACCOUNT_NAME": "lakeaccount",
                "AZURE_STORAGE_ACCOUNT_KEY": key,
                "AZURE_STORAGE_ENDPOINT": f"http://{authority}/lakeaccount",
                "AZURE_ALLOW_HTTP": "true",
            }
        finally:
            os.killpg(child.pid, signal.SIGTERM)
            child.wait(10)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a PostgreSQL server that asks for the password ``correct``, without it."""
    pytest.importorskip(
        "psycopg", reason="PostgreSQL needs its client: pip install psycopg[binary]"
    )
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    on_path = shutil.which("initdb")
    if not found and on_path is None:
        pytest.skip("PostgreSQL's server is not installed: apt-get install postgresql")
    binaries = found[0].parent if found else Path(str(on_path)).parent
    # The server refuses to run as root, and its sockets need a short path.
    user = "nobody" if os.getuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="ht-pg-", dir="/tmp"))
    if user:
        shutil.chown(folder, user)
    (port,) = free_ports(1)
    log = folder / "log"
    (folder / "password").write_text("correct\n")
    (folder / "password").chmod(0o644)
    subprocess.run(
        [binaries / "initdb", "-D", folder / "data", "-U", "me", "-A", "scram-sha-256",
         "--pwfile", folder / "password", "-N"],
        user=user, cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            [binaries / "postgres", "-D", folder / "data", "-p", str(port), "-k", folder,
             "-h", "127.0.0.1", "-c", "fsync=off"],
            user=user, cwd=folder, stdout=output, stderr=output,
        )  # fmt: skip
        try:
            log.write_text("see the server's output")
            wait_for(port, child, log)
            yield f"postgresql://me@127.0.0.1:{port}/postgres"
        finally:
            child.send_signal(signal.SIGINT)
            child.wait(20)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def kafka() -> Iterator[str]:
    """Address of librdkafka's own mock cluster, which speaks Kafka's protocol on loopback."""
    confluent_kafka = pytest.importorskip(
        "confluent_kafka", reason="Kafka needs its client: pip install confluent-kafka"
    )
    lines: list[str] = []

    class Capture(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger = logging.getLogger("heliostat-tests-kafka")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(Capture())
    # The cluster lives in this producer; its log says where.
    owner = confluent_kafka.Producer(
        {"test.mock.num.brokers": 1, "debug": "mock", "bootstrap.servers": "ignored"}, logger=logger
    )
    for _ in range(100):
        owner.poll(0.05)
        found = [match for line in lines for match in re.findall(r"127\.0\.0\.1:\d+", line)]
        if found:
            break
    assert found, lines
    yield found[0]
    del owner
