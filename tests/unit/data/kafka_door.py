"""A door of TLS and SASL/PLAIN before a Kafka that has neither, as librdkafka's mock cluster.

It answers what belongs to the entrance itself, by Kafka's protocol: which requests there are,
which mechanism, and whether the password is right. All else goes through to the cluster, whose
address in its answers becomes the door's, so that clients come back here.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

API_VERSIONS, METADATA, COORDINATOR, HANDSHAKE, AUTHENTICATE = 18, 3, 10, 17, 36
UNSUPPORTED_VERSION, SASL_AUTHENTICATION_FAILED = 35, 58


@contextmanager
def before(
    servers: str,
    certificates: Path,
    user: str,
    password: str,
    *,
    asks_for_certificate: bool = False,
) -> Iterator[str]:
    """Run the door; gives the address it listens on."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    if asks_for_certificate:
        context.load_verify_locations(certificates / "ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listener:
        mine = listener.getsockname()[1]
        theirs = int(servers.rpartition(":")[2])

        def serve() -> None:
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                Thread(target=one, args=(plain,), daemon=True).start()

        def one(plain: socket.socket) -> None:
            try:
                with context.wrap_socket(plain, server_side=True) as client:
                    _pass(client, mine, theirs, f"\0{user}\0{password}".encode())
            except OSError:
                return

        Thread(target=serve, daemon=True).start()
        try:
            yield f"127.0.0.1:{mine}"
        finally:
            # Wakes the thread that waits in accept.
            listener.shutdown(socket.SHUT_RDWR)


def _pass(client: socket.socket, mine: int, theirs: int, secret: bytes) -> None:
    is_in = False
    with socket.create_connection(("127.0.0.1", theirs)) as cluster:
        while (request := _frame(client)) is not None:
            key, version = struct.unpack(">hh", request[:4])
            said = request[4:8]
            if key == HANDSHAKE:
                answer = said + struct.pack(">hih5s", 0, 1, 5, b"PLAIN")
            elif key == AUTHENTICATE:
                is_in = request.endswith(secret)
                words = b"" if is_in else b"Authentication failed"
                code = 0 if is_in else SASL_AUTHENTICATION_FAILED
                answer = said + struct.pack(">hh", code, len(words)) + words
                answer += struct.pack(">i", 0) + (struct.pack(">q", 0) if version else b"")
            elif key == API_VERSIONS and version:
                answer = said + struct.pack(">hi", UNSUPPORTED_VERSION, 0)
            elif key == API_VERSIONS:
                answer = _with_sasl(_asked(cluster, request))
            elif is_in:
                answer = _asked(cluster, request)
            else:
                return
            if key in (METADATA, COORDINATOR):
                answer = answer.replace(_address(theirs), _address(mine))
            client.sendall(struct.pack(">i", len(answer)) + answer)


def _asked(cluster: socket.socket, request: bytes) -> bytes:
    cluster.sendall(struct.pack(">i", len(request)) + request)
    answer = _frame(cluster)
    assert answer is not None
    return answer


def _with_sasl(answer: bytes) -> bytes:
    """Add the two requests of the entrance to the list of those that the cluster knows."""
    count = struct.unpack(">i", answer[6:10])[0]
    more = struct.pack(">hhhhhh", HANDSHAKE, 0, 1, AUTHENTICATE, 0, 1)
    end = 10 + 6 * count
    return answer[:6] + struct.pack(">i", count + 2) + answer[10:end] + more + answer[end:]


def _address(port: int) -> bytes:
    return b"127.0.0.1" + struct.pack(">i", port)


def _frame(connection: socket.socket) -> bytes | None:
    head = _exactly(connection, 4)
    return None if head is None else _exactly(connection, struct.unpack(">i", head)[0])


def _exactly(connection: socket.socket, number: int) -> bytes | None:
    found = b""
    while len(found) < number:
        part = connection.recv(number - len(found))
        if not part:
            return None
        found += part
    return found
