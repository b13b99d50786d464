"""A small Kubernetes API over HTTPS: enough of it for the autoscaler that Ray runs beside a head."""

from __future__ import annotations

import copy
import datetime as dt
import ipaddress
import json
import ssl
import threading
import urllib.parse
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from heliostat.clusters import kuberay, schema, structural
from heliostat.clusters.checks import shape
from heliostat.clusters.checks.bundle import Bundle
from heliostat.clusters.document import Document

Key = tuple[str, str, str]
"""Plural, namespace and name."""

_PLURALS = {"Pod": "pods", "RayCluster": "rayclusters"}
_ALLOWED = {
    ("pods", "GET"), ("pods", "PATCH"), ("rayclusters", "GET"), ("rayclusters", "PATCH"),
}  # fmt: skip
"""What the Role that KubeRay 1.7 makes for the autoscaler lets it do."""


class FakeKubernetes:
    """Keeps Pods and RayClusters, and answers clients that hold its client certificate.

    As the real one it stores a RayCluster with the defaults of its schema, refuses a patch that
    leaves the schema (422) and what the autoscaler's Role does not allow (403). It has no watches,
    no other kinds and no admission beyond that.
    """

    def __init__(self, host: str, port: int, folder: Path) -> None:
        """Start to listen.

        Args:
            folder: Where the certificates are written, for clients to read.
        """
        self.host, self.port, self.folder = host, port, folder
        self.calls: list[tuple[str, str, int]] = []
        """Method, path and status of every call, in order."""

        self.patches: list[tuple[str, Any]] = []
        """Name of the RayCluster and the patch, of each that was taken."""

        self.changed = threading.Condition()
        """Notified after each change of an object."""

        self._objects: dict[Key, dict[str, Any]] = {}
        self._version = 0
        write_certificates(host, folder)
        self._server = ThreadingHTTPServer((host, port), _handler(self))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.crt", folder / "server.key")
        context.load_verify_locations(folder / "ca.crt")
        context.verify_mode = ssl.CERT_OPTIONAL
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop to listen."""
        self._server.shutdown()
        self._server.server_close()

    def client_variables(self, folder: Path | None = None) -> dict[str, str]:
        """Environment by which Ray's autoscaler finds this server and proves who it is.

        Args:
            folder: Where the client sees the certificates, if not where they were written.
        """
        folder = folder or self.folder
        return {
            "KUBERNETES_SERVICE_HOST": self.host,
            "KUBERNETES_SERVICE_PORT_HTTPS": str(self.port),
            "RAY_KUBERAY_CA_CERT_PATH": str(folder / "ca.crt"),
            "RAY_KUBERAY_CLIENT_CERT_PATH": str(folder / "client.crt"),
            "RAY_KUBERAY_CLIENT_KEY_PATH": str(folder / "client.key"),
            "KUBERAY_CRD_VER": "v1",
        }

    def put(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Create or replace an object, as its owner would; return it as it is stored.

        Raises:
            ValueError: A RayCluster does not fit its schema.
        """
        metadata = body["metadata"]
        key = (_PLURALS[body["kind"]], metadata.get("namespace", "default"), metadata["name"])
        return self._store(key, copy.deepcopy(dict(body)))

    def get(self, kind: str, namespace: str, name: str) -> dict[str, Any] | None:
        """Give a copy of an object; None if there is none."""
        with self.changed:
            return copy.deepcopy(self._objects.get((_PLURALS[kind], namespace, name)))

    def all(self, kind: str, labels: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """Give copies of all objects of a kind that carry the labels."""
        with self.changed:
            return [
                copy.deepcopy(item)
                for (plural, _, _), item in sorted(self._objects.items())
                if plural == _PLURALS[kind]
                and (labels or {}).items() <= item["metadata"].get("labels", {}).items()
            ]

    def delete(self, kind: str, namespace: str, name: str) -> None:
        """Remove an object; nothing happens if there is none."""
        with self.changed:
            self._objects.pop((_PLURALS[kind], namespace, name), None)
            self.changed.notify_all()

    def answer(self, method: str, path: str, body: Any, content_type: str) -> tuple[int, Any]:
        """Answer one call of a known client."""
        address = urllib.parse.urlsplit(path)
        parts = [urllib.parse.unquote(part) for part in address.path.strip("/").split("/")]
        start = {"api": 2, "apis": 3}.get(parts[0], 0)
        if not start or len(parts) < start + 3 or parts[start] != "namespaces":
            return 404, _status(404, "NotFound", f"no such path {address.path}")
        namespace, plural, *rest = parts[start + 1 :]
        group = "v1" if plural == "pods" else kuberay.API_VERSION
        if "/".join(parts[1:start]) != group or plural not in _PLURALS.values() or len(rest) > 1:
            return 404, _status(404, "NotFound", f"no such path {address.path}")
        if (plural, method) not in _ALLOWED:
            return 403, _status(403, "Forbidden", f"may not {method} {plural}")
        if not rest:
            return self._listed(plural, namespace, urllib.parse.parse_qs(address.query))
        key = (plural, namespace, rest[0])
        with self.changed:
            found = copy.deepcopy(self._objects.get(key))
        if found is None:
            return 404, _status(404, "NotFound", f"{plural} {rest[0]} not found")
        if method == "GET":
            return 200, found
        try:
            changed = _patched(found, body, content_type)
            stored = self._store(key, changed)
        except (ValueError, LookupError, TypeError) as error:
            return 422, _status(422, "Invalid", str(error))
        if plural == "rayclusters":
            self.patches.append((rest[0], body))
        return 200, stored

    def _listed(
        self, plural: str, namespace: str, query: Mapping[str, list[str]]
    ) -> tuple[int, Any]:
        pairs = [item for text in query.get("labelSelector", []) for item in text.split(",")]
        labels = dict(pair.split("=", 1) for pair in pairs)
        kind = {plural: kind for kind, plural in _PLURALS.items()}[plural]
        items = [
            item
            for item in self.all(kind, labels)
            if item["metadata"].get("namespace") == namespace
        ]
        body = {"kind": f"{kind}List", "metadata": {"resourceVersion": str(self._version)}}
        return 200, {**body, "items": items}

    def _store(self, key: Key, body: dict[str, Any]) -> dict[str, Any]:
        if key[0] == "rayclusters":
            model = schema.structural(kuberay.RayClusterSpec)
            body["spec"] = structural.with_defaults(model, body["spec"])
            bundle = Bundle(documents=[Document(file=key[2], body=body)])
            for finding in shape.kuberay_kinds(bundle):
                raise ValueError(str(finding))
        with self.changed:
            self._version += 1
            body["metadata"] = {**body["metadata"], "resourceVersion": str(self._version)}
            self._objects[key] = copy.deepcopy(body)
            self.changed.notify_all()
        return body


def _patched(body: dict[str, Any], patch: Any, content_type: str) -> dict[str, Any]:
    """Apply a JSON patch; as Kubernetes' own library, it replaces what is not there yet, too."""
    if content_type != "application/json-patch+json" or not isinstance(patch, list):
        raise ValueError(f"content type {content_type}: only JSON patches are taken here")
    for step in patch:
        *path, last = [
            part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]
        ]
        node: Any = body
        for part in path:
            node = node[int(part)] if isinstance(node, list) else node[part]
        where: Any = int(last) if isinstance(node, list) and last != "-" else last
        if step["op"] == "test":
            if node[where] != step["value"]:
                raise ValueError(f"{step['path']} is not {step['value']!r}")
        elif step["op"] == "remove":
            del node[where]
        elif isinstance(node, list) and step["op"] == "add":
            node.insert(len(node) if where == "-" else where, step["value"])
        elif step["op"] in ("add", "replace"):
            node[where] = step["value"]
        else:
            raise ValueError(f"operation {step['op']!r} is not known here")
    return body


def _status(code: int, reason: str, message: str) -> dict[str, Any]:
    return {
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code, "reason": reason, "message": message,
    }  # fmt: skip


def _handler(server: FakeKubernetes) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            certificate = self.connection.getpeercert()
            if not certificate:
                code, body = 401, _status(401, "Unauthorized", "a client certificate is needed")
            else:
                content_type = self.headers.get("Content-Type", "")
                value = json.loads(raw) if raw else None
                code, body = server.answer(self.command, self.path, value, content_type)
            server.calls.append((self.command, self.path.split("?")[0], code))
            text = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_PATCH = do_DELETE = do_POST = do_PUT = _answer  # noqa: N815 - http.server's names

        def log_message(self, *_: object) -> None:
            """Keep quiet; `FakeKubernetes.calls` holds what was asked."""

    return Handler


def write_certificates(host: str, folder: Path) -> None:
    """Write an authority, a server's certificate for an address, and a client's, good for a day."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    now = dt.datetime.now(dt.UTC)
    authority_key = ec.generate_private_key(ec.SECP256R1())

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    folder.mkdir(parents=True, exist_ok=True)
    for who in ("ca", "server", "client"):
        key = authority_key if who == "ca" else ec.generate_private_key(ec.SECP256R1())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name(who))
            .issuer_name(name("ca"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=who == "ca", path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]),
                critical=False,
            )
            .sign(authority_key, hashes.SHA256())
        )
        (folder / f"{who}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        path = folder / f"{who}.key"
        path.touch(mode=0o600)
        path.write_bytes(private)
