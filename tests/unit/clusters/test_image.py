"""The image: how its digest is read, and what it is made of."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from heliostat.testing.kubernetes import write_certificates
from tests.conftest import ROOT

IMAGE = ROOT / "cluster_configs" / "image"
DIGEST = "sha256:" + "ab" * 32


class _Registry(BaseHTTPRequestHandler):
    """Gives manifests to who shows the token that it gives to anybody."""

    def do_HEAD(self) -> None:
        known = {
            "/v2/heliostat/ray/manifests/2.60.0": DIGEST,
            "/v2/heliostat/odd/manifests/1": "no",
        }
        if self.headers.get("Authorization") != "Bearer for-reading":
            host = f"127.0.0.1:{self.server.server_port}"  # type: ignore[attr-defined]
            challenge = f'Bearer realm="https://{host}/token",service="here",scope="pull"'
            self._answer(401, {"WWW-Authenticate": challenge})
        elif digest := known.get(self.path):
            self._answer(200, {"Docker-Content-Digest": digest})
        else:
            self._answer(404, {})

    def do_GET(self) -> None:
        right = self.path == "/token?service=here&scope=pull"
        self._answer(200 if right else 400, {}, b'{"token": "for-reading"}' if right else b"{}")

    def _answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Host of a registry that speaks TLS, and the authority that signed it."""
    write_certificates("127.0.0.1", tmp_path)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Registry)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", tmp_path / "ca.crt"
    server.shutdown()
    server.server_close()


def pin(image: str, authority: Path | None = None) -> tuple[int, str, str]:
    environment = {"PATH": os.environ["PATH"], "NO_PROXY": "*", "no_proxy": "*"}
    if authority is not None:
        environment["SSL_CERT_FILE"] = str(authority)
    done = subprocess.run(
        [sys.executable, "-I", str(IMAGE / "pin.py"), image],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_a_digest_is_read_from_the_registry_with_its_anonymous_token(
    registry: tuple[str, Path],
) -> None:
    """The line is what `Images.digests` takes; a tag that is not there and a strange digest are 4."""
    host, authority = registry
    image = f"{host}/heliostat/ray:2.60.0"

    assert pin(image, authority) == (0, f'("{image}", "{DIGEST}"),\n', "")
    assert pin(f"{host}/heliostat/ray:2.61.0", authority) == (
        4, "", f"{host}: HTTP Error 404: Not Found\n"
    )  # fmt: skip
    assert pin(f"{host}/heliostat/odd:1", authority) == (
        4, "", f"{host}: gave no digest for {host}/heliostat/odd:1\n"
    )  # fmt: skip


def test_a_registry_that_nobody_signed_for_is_not_believed(registry: tuple[str, Path]) -> None:
    """A digest read from it would pin whatever it likes."""
    code, line, problem = pin(f"{registry[0]}/heliostat/ray:2.60.0")

    assert (code, line) == (4, "")
    assert "CERTIFICATE_VERIFY_FAILED" in problem


def test_a_name_without_tag_is_refused() -> None:
    """No request is made for it."""
    assert pin("heliostat/ray") == (
        2, "", "IMAGE = 'heliostat/ray': must be written [registry/]name:tag\n"
    )  # fmt: skip


def test_the_image_is_built_from_exact_versions_and_does_not_run_as_root() -> None:
    """The laptop's constraints for what it runs, a pinned tool for its list, a base by exact tag."""
    text = (IMAGE / "Containerfile").read_text()
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    installs = [line for line in lines if "pip install" in line]
    (base,) = [line for line in lines if line.startswith("ARG BASE=")]

    assert base.endswith("rayproject/ray:2.60.0-py311")
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 1000:100"
    assert len(installs) == 2
    assert "--constraint platform/constraints/py311.txt" in installs[0]
    assert re.search(r"cyclonedx-bom==\d", installs[1])
    assert "/opt/heliostat/sbom.cdx.json" in installs[1]
