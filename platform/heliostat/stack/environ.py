"""Environment variables: what clients of the platform need, and what its processes get."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

from heliostat.stack.processes import MARK
from heliostat.stack.settings import StackSettings

_LOOPBACK = ("127.0.0.1", "localhost", "::1")

_OWN = (
    "RAY_ADDRESS",
    "RAY_API_SERVER_ADDRESS",
    "RAY_JOB_CONFIG_JSON_ENV_VAR",
    "RAY_NODE_IP_ADDRESS",
    "PYTHONHOME",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    MARK,
)
"""Variables of the user's shell that must not leak into the platform."""


def for_clients(
    settings: StackSettings, home: Path, auth: Mapping[str, str], environ: Mapping[str, str]
) -> dict[str, str]:
    """Say what a shell, a job or a notebook needs to find the platform.

    Holds no secret: a token is named by its file, or inherited.
    """
    skip = [item for item in environ.get("NO_PROXY", "").split(",") if item.strip()]
    no_proxy = ",".join(dict.fromkeys([*skip, *_LOOPBACK]))
    return {
        "RAY_ADDRESS": settings.dashboard_url,
        **auth,
        # Ray's own switch for laptops (its default on macOS and Windows): the node's address
        # is 127.0.0.1, every one of its servers binds there, and a change of network is harmless.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "MLFLOW_TRACKING_URI": settings.mlflow_url,
        "HELIOSTAT_HOME": str(home),
        "HELIOSTAT_ENDPOINT": settings.endpoint,
        "HELIOSTAT_DASHBOARD": settings.dashboard_url,
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
        "RAY_USAGE_STATS_ENABLED": "0",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "1",
        "FEAST_USAGE": "False",
        # ONNX Runtime 1.32 keeps a telemetry database under ~/.cache/Microsoft otherwise.
        "ORT_DISABLE_TELEMETRY": "1",
    }


def for_processes(
    clients: Mapping[str, str],
    *,
    home: Path,
    repository: Path,
    python: Path,
    temp: Path,
    environ: Mapping[str, str],
) -> dict[str, str]:
    """Say what the platform's own processes run with; jobs and replicas inherit it from Ray.

    The first entry of PYTHONPATH is relative on purpose: a job runs in the folder that was
    uploaded with it, so the uploaded code wins over this clone; a replica has none.
    """
    inherited = {key: value for key, value in environ.items() if key not in _OWN}
    source = repository / "platform"
    # Jobs are started as `python ...`: that must be this very Python.
    path = f"{python.parent}{os.pathsep}{environ.get('PATH') or os.defpath}"
    return {
        **inherited,
        **{key: value for key, value in clients.items() if key != "RAY_ADDRESS"},
        "PYTHONPATH": f"platform:{repository}:{source}",
        "PATH": path,
        # What a killed process leaves behind goes with the run folder.
        "TMPDIR": str(temp),
        MARK: str(home),
    }


def exports(variables: Mapping[str, str]) -> str:
    """Write shell lines for ``eval``, quoted so that any value survives.

    >>> print(exports({"A": "b c", "D": "e"}))
    export A='b c'
    export D=e
    """
    return "\n".join(f"export {key}={shlex.quote(value)}" for key, value in variables.items())
