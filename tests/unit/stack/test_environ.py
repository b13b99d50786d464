from __future__ import annotations

import subprocess
from pathlib import Path

from heliostat.stack import environ
from heliostat.stack.processes import MARK
from heliostat.stack.settings import Ports, StackSettings

AUTH = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/h/keys/ray_token"}


def test_clients_get_every_address_and_nothing_calls_home() -> None:
    """The variables name the platform's parts, keep loopback off proxies, stop telemetry."""
    settings = StackSettings(ports=Ports(serve=8001, mlflow=5001, dashboard=8266))
    found = environ.for_clients(settings, Path("/a home"), AUTH, {"NO_PROXY": "corp,localhost"})
    assert found == {
        "RAY_ADDRESS": "http://127.0.0.1:8266",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": "/h/keys/ray_token",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:5001",
        "HELIOSTAT_HOME": "/a home",
        "HELIOSTAT_ENDPOINT": "http://127.0.0.1:8001",
        "HELIOSTAT_DASHBOARD": "http://127.0.0.1:8266",
        "NO_PROXY": "corp,localhost,127.0.0.1,::1",
        "no_proxy": "corp,localhost,127.0.0.1,::1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "FEAST_USAGE": "False",
        "ORT_DISABLE_TELEMETRY": "1",
    }


def test_processes_run_this_python_and_the_uploaded_code_first() -> None:
    """Our processes carry the mark, not the caller's Python settings or Ray address."""
    found = environ.for_processes(
        {"RAY_ADDRESS": "http://x", "HELIOSTAT_HOME": "/h"},
        home=Path("/h"),
        repository=Path("/r"),
        python=Path("/v/bin/python"),
        temp=Path("/tmp/h/t"),
        environ={"RAY_ADDRESS": "ray://y", "PYTHONPATH": "/evil", "PYTHONHOME": "/e", "LANG": "C"},
    )
    path = found.pop("PATH")
    assert path.split(":")[0] == "/v/bin"
    assert found == {
        "LANG": "C",
        "HELIOSTAT_HOME": "/h",
        "PYTHONPATH": "platform:/r:/r/platform",
        "TMPDIR": "/tmp/h/t",
        MARK: "/h",
    }


def test_exports_survive_any_value() -> None:
    """A shell that evaluates the lines gets the same values back, whatever they hold."""
    values = {"A": "it's", "B": "a b\nc", "C": '$HOME `id` "x" \\', "D": ""}
    script = environ.exports(values) + "\nenv -0"
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True, env={})
    pairs = (item.split("=", 1) for item in done.stdout.decode().split("\0") if item)
    assert {key: value for key, value in pairs if key in values} == values
