from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from heliostat.clusters import check
from heliostat.testing.ports import free_ports
from tests.conftest import ROOT

TOKEN = "a" * 64
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture
def head(child_environment):
    """A real head, started with the rendered parameters and the token that the operator injects."""
    bundle = check.read_bundle([ROOT / "cluster_configs" / "eks" / "ray" / "shared-cluster.yaml"])
    (cluster,) = bundle.clusters()
    folder = Path(tempfile.mkdtemp(prefix="hc-", dir="/tmp"))
    dashboard, *others = free_ports(4)
    replaced = {
        "dashboard-host": "127.0.0.1",
        "object-spilling-directory": str(folder / "spill"),
        "dashboard-port": dashboard,
        "port": others[0],
        "ray-client-server-port": others[1],
        "dashboard-agent-listen-port": others[2],
        "node-ip-address": "127.0.0.1",
        "temp-dir": folder,
        "object-store-memory": 100 * 2**20,
    }
    (folder / "spill").mkdir()
    params = {**cluster.head.params, **replaced}
    words = [f"--{key}={value}" for key, value in params.items()]
    environment = {**child_environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    # The script `ray` would resolve links: where the clone's path has spaces, Ray does not start.
    ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]
    log = folder / "head.log"
    with log.open("wb") as told:
        process = subprocess.Popen(
            [*ray, "start", "--head", "--block", *words],
            env=environment, start_new_session=True, stdout=told, stderr=told,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{dashboard}"
        wait_for(url, process, log)
        yield url
    finally:
        end(process, folder)


def end(process: subprocess.Popen, folder: Path) -> None:
    """End the head and what it started: all of it names this head's own folder."""
    import psutil

    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for item in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in item.info["cmdline"] or ()):
            item.kill()
    shutil.rmtree(folder, ignore_errors=True)


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 60
    while status(url, "/api/serve/applications/", token=TOKEN) != 200:
        assert process.poll() is None, f"the head ended: {log.read_text()[-3000:]}"
        assert time.monotonic() < deadline, "the head does not answer"
        time.sleep(0.3)


def status(url: str, path: str, *, token: str | None, body: object = None) -> int:
    request = urllib.request.Request(
        url + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"}
        | ({"Authorization": f"Bearer {token}"} if token else {}),
        method="GET" if body is None else "POST",
    )
    try:
        with OPENER.open(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


@pytest.mark.slow
def test_a_head_with_the_rendered_parameters_asks_for_the_token(head):
    """Nobody reads applications or starts a job without it; a wrong one is told from none."""
    job = {"entrypoint": "true"}
    seen = {
        (path, token): status(head, path, token=token, body=body)
        for path, body in (("/api/serve/applications/", None), ("/api/jobs/", job))
        for token in (None, "b" * 64, TOKEN)
    }

    assert seen == {
        ("/api/serve/applications/", None): 401,
        ("/api/serve/applications/", "b" * 64): 403,
        ("/api/serve/applications/", TOKEN): 200,
        ("/api/jobs/", None): 401,
        ("/api/jobs/", "b" * 64): 403,
        ("/api/jobs/", TOKEN): 200,
    }
