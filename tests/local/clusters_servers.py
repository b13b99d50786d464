"""The servers beside Ray in the loopback proof: PostgreSQL, Redis and MLflow, each in a Pod of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heliostat.testing.pods import PodNetwork, RunningPod, container_environment
from tests.conftest import ROOT
from tests.unit.postgres import BINARIES

DATABASE_PASSWORD = "p@ss/w:rd?"  # what a URL would trip over
REDIS_PASSWORD = "r@dis/pass"

# Runs as a user of its own: PostgreSQL refuses to be root. As the image does, it makes what
# POSTGRES_DB and the scripts of a fresh volume ask for.
POSTGRES = """
set -e
mkdir /tmp/data; chown postgres /tmp/data; chmod 711 /tmp
exec setpriv --reuid=postgres --regid=postgres --init-groups sh -e -c '
  initdb -D /tmp/data -E UTF8 -U heliostat -A scram-sha-256 --pwfile=/tmp/password >&2
  for name in mlflow heliostat; do
    echo "CREATE DATABASE $name" | postgres --single -D /tmp/data postgres >&2
  done
  echo "host all all 10.77.0.0/24 scram-sha-256" >> /tmp/data/pg_hba.conf
  exec postgres -D /tmp/data -c listen_addresses=0.0.0.0 -c unix_socket_directories=/tmp/data'
"""


def database(network: PodNetwork, host: str) -> RunningPod:
    """Start PostgreSQL under the name that a recipe gives."""
    address = network.address()
    network.name({host: address})
    top = network.folder / "postgres"
    top.mkdir()
    (top / "password").write_text(DATABASE_PASSWORD, encoding="ascii")
    environment = {"PATH": f"{BINARIES[-1]}{os.pathsep}{os.defpath}", "LC_ALL": "C"}
    return network.start("postgres", address, ["sh", "-c", POSTGRES], environment, Path("/"))


def redis(
    network: PodNetwork, host: str, container: Mapping[str, Any], secrets: Mapping[str, str]
) -> RunningPod:
    """Start the online store with its rendered command; its volume is the Pod's /tmp."""
    command = [word.replace("--dir /data", "--dir /tmp") for word in container["command"]]
    environment = {"PATH": os.environ["PATH"], **container_environment(container, {}, secrets)}
    address = network.address()
    network.name({host: address})
    return network.start("redis-online", address, command, environment, Path("/"))


def mlflow(
    network: PodNetwork, host: str, container: Mapping[str, Any], secrets: Mapping[str, str],
    artifacts: Path,
) -> RunningPod:  # fmt: skip
    """Start MLflow with its rendered arguments, but a folder for its bucket, and one worker.

    Without metrics where their exporter is not installed: it is in the image's extra only.
    """
    arguments = list(container["args"])
    if importlib.util.find_spec("prometheus_flask_exporter") is None:
        at = arguments.index("--expose-prometheus")
        del arguments[at : at + 2]
    for key, value in {"--artifacts-destination": str(artifacts), "--workers": "1"}.items():
        arguments[arguments.index(key) + 1] = value
    address = network.address()
    network.name({host: address})
    environment = {
        **image_environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        **container_environment(container, {}, secrets),
    }  # fmt: skip
    command = [*container["command"], *arguments]
    return network.start("mlflow", address, command, environment, ROOT)


def image_environment() -> dict[str, str]:
    """What the image brings."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}:/usr/sbin:/sbin"
    return {
        "PATH": path, "HOME": "/tmp", "PYTHONPATH": f"{ROOT / 'platform'}{os.pathsep}{ROOT}",
        "PYTHONDONTWRITEBYTECODE": "1", "LC_ALL": "C.UTF-8", "NO_PROXY": "*", "no_proxy": "*",
    }  # fmt: skip


def status(address: str, port: int, path: str) -> int:
    """Give the status of a GET; 0 where nobody answers."""
    return post(f"http://{address}:{port}{path}", None, None)[0]


def listens(address: str, port: int) -> bool:
    """Say whether connections are taken."""
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def post(
    url: str, body: Any, key: str | None, more: dict[str, str] | None = None
) -> tuple[int, Any]:
    """Send JSON, or nothing, and give status and answer."""
    headers = {"Content-Type": "application/json", **(more or {})}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, data, headers), timeout=15) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text.startswith(b"{") else None
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")[:500]
    except OSError:
        return 0, None
