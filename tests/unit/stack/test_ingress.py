from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from heliostat.stack import ingress
from heliostat.stack.ingress_edit import edit
from heliostat.stack.settings import Ports

RENDERED = """global
    maxconn 4096
defaults
    mode http
    timeout connect 5s
    timeout client 10s
    timeout server 30s
    balance leastconn
frontend prometheus
    bind :9101
    mode http
    http-request use-service prometheus-exporter if { path /metrics }
    no log
frontend http_frontend
    bind 127.0.0.1:8000
    # Health check endpoint
    acl healthcheck path -i /-/healthz
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain string "none"
listen stats
  bind *:8404
  stats enable
  stats uri /stats
"""

EDITED = """global
    maxconn 4096
defaults
    mode http
    timeout connect 5s
    timeout client 10s
    timeout http-request 5s
    option http-buffer-request
    timeout check 5s
    timeout server 30s
    balance leastconn
frontend prometheus
    bind 127.0.0.1:9101
    mode http
    http-request use-service prometheus-exporter if { path /metrics }
    no log
frontend http_frontend
    bind 127.0.0.1:8000
    http-request del-header x-request-timeout-seconds
    http-request del-header x-request-disconnect-disabled
    # Health check endpoint
    acl healthcheck path -i /-/healthz
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain string "none"
listen stats
  bind 127.0.0.1:8404
  stats enable
  stats uri /stats
"""


def test_pages_are_bound_to_loopback_and_heads_are_timed() -> None:
    """Exactly the known lines change; editing the result again changes nothing."""
    assert edit(RENDERED) == EDITED
    assert edit(EDITED) == EDITED


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("    bind :9101\n", "metrics page"),
        ("  bind *:8404\n", "statistics page"),
        ("    timeout client 10s\n", "timeout client"),
        ("    bind 127.0.0.1:8000\n", "http_frontend"),
    ],
)
def test_an_unknown_configuration_is_refused(line: str, what: str) -> None:
    """Another version of Ray may render other lines: then the ingress does not start."""
    with pytest.raises(ValueError, match=f"{what}: expected once .* found 0"):
        edit(RENDERED.replace(line, ""))


def test_the_executable_edits_checks_and_becomes_haproxy(tmp_path: Path) -> None:
    """Started as Ray starts HAProxy, from a folder with a space; the result passes its check."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    executable = ingress.write_executable(folder, ingress.find_haproxy())
    config = folder / "c"
    config.write_text(RENDERED)
    done = subprocess.run(
        [executable, "-f", config, "-c"], env={}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert config.read_text() == EDITED
    assert executable.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("global\n", ("heliostat: ingress not started: metrics page: expected once in Ray's "
         "HAProxy configuration, found 0\n")),
        (RENDERED.replace("balance leastconn", "balance nonsense"),
         "heliostat: ingress not started: haproxy refuses the configuration\n"),
    ],
)  # fmt: skip
def test_a_configuration_that_fails_is_left_alone(tmp_path: Path, text: str, message: str) -> None:
    """Nothing half-edited is started, and the reason is on standard error for Ray to report."""
    executable = ingress.write_executable(tmp_path, ingress.find_haproxy())
    config = tmp_path / "c"
    config.write_text(text)
    done = subprocess.run([executable, "-f", config], capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert done.stderr.endswith(message)
    assert config.read_text() == text


def test_socket_paths_stay_within_the_limit() -> None:
    """With the longest user and process numbers HAProxy's socket path has at most 107 bytes."""
    folder = Path("/tmp/heliostat-4294967294-0123abcd")
    variables = ingress.variables(Ports(), folder, folder / "haproxy")
    path = Path(variables["RAY_SERVE_HAPROXY_SOCKET_PATH"])
    with_node = path.parent / ("0" * 56) / path.name
    assert len(f"{with_node}.4194304.tmp") <= 107


def test_haproxy_is_the_one_that_came_with_ray() -> None:
    """The binary lies in this environment, whatever else is installed on the machine."""
    found = ingress.find_haproxy()
    assert os.access(found, os.X_OK)
    # In a clone whose path has spaces, tests run by a link to the environment.
    assert Path(found).resolve().is_relative_to(Path(sys.executable).parent.parent.resolve())
