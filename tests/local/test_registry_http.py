"""Runs and model versions through a real MLflow server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from heliostat.errors import Unavailable
from heliostat.registry import signing
from heliostat.registry.tracking import Tracking
from heliostat.registry.versions import Registry
from heliostat.store.home import Home
from heliostat.testing.ports import free_ports


class Server:
    """An MLflow server of its own on a free port of the loopback."""

    def __init__(self, folder: Path) -> None:
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        settings = {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env={**os.environ, **settings}, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=2).close()
            except OSError:
                assert self._process.poll() is None, (self._folder / "server.log").read_text()
                time.sleep(0.3)
            else:
                return
        raise TimeoutError(self.url)

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    server.start()
    yield server
    server.stop()


def test_a_package_travels_through_the_server_to_another_machine(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Registered in one home, fetched and verified in another that trusts the same key.

    While the server is away nothing is half registered, and afterwards the same call ends well.
    """
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    here, there = Home(root=tmp_path / "here"), Home(root=tmp_path / "there")
    package = tmp_path / "p"
    (package / "deep").mkdir(parents=True)
    (package / "model.json").write_text("one")
    (package / "deep" / "weights").write_bytes(bytes(range(256)) * 4000)
    digest = signing.sign(package, here.keys)
    shutil.copytree(here.keys, there.keys)
    tracking = Tracking(server.url)
    with tracking.run("exp", "n", {"job": "1"}) as run_id:
        tracking.log_params(run_id, {"a": {"b": 1}})
        tracking.log_metric_steps(run_id, [(step, {"loss": 1 / (step + 1)}) for step in range(50)])
        server.stop()
        with pytest.raises(Unavailable):
            Registry(tracking, here).register(package, "tiny", run_id, {})
        server.start()
        assert Registry(tracking, here).list("tiny") == []
        made = Registry(tracking, here).register(package, "tiny", run_id, {"data": "3"})

    assert tracking.status(run_id) == "FINISHED"
    assert (made.version, made.digest, made.tags) == ("1", digest, {"data": "3"})
    Registry(tracking, there).set_alias("tiny", "stable", "1")
    found = Registry(Tracking(server.url), there).get("tiny", "1")
    assert (found.digest, found.aliases) == (digest, ("stable",))
    assert found.path.is_relative_to(there.root)
    assert (found.path / "deep" / "weights").read_bytes() == bytes(range(256)) * 4000
    assert signing.verify(found.path, there.keys) == digest
