"""A server of MongoDB's wire protocol on loopback, with rows and users, for its real client."""

from __future__ import annotations

import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import bson

OP_MSG, OP_QUERY, OP_REPLY = 2013, 2004, 1
ABOUT_ME = {
    "ok": 1.0, "ismaster": True, "isWritablePrimary": True, "helloOk": True,
    "maxBsonObjectSize": 2**24, "maxMessageSizeBytes": 48_000_000, "maxWriteBatchSize": 100_000,
    "minWireVersion": 0, "maxWireVersion": 25, "readOnly": False,
}  # fmt: skip


class Server(socketserver.ThreadingTCPServer):
    """Answers hello, find and getMore; a login is always refused."""

    daemon_threads = True

    def __init__(self, documents: list[dict[str, Any]]) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.documents = documents
        self.asked: list[dict[str, Any]] = []

    def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        """One command's answer."""
        name = next(iter(command))
        self.asked.append(command)
        if name in ("hello", "ismaster", "isMaster"):
            return ABOUT_ME
        if name == "saslStart":
            return {"ok": 0.0, "code": 18, "errmsg": "Authentication failed.",
                    "codeName": "AuthenticationFailed"}  # fmt: skip
        if name == "find":
            if "$nonsense" in command["filter"]:
                return {"ok": 0.0, "code": 2, "errmsg": "unknown top level operator: $nonsense"}
            found = [d for d in self.documents if _fits(d, command["filter"])]
            return self._page(found[: command.get("limit") or None], 0, command)
        if name == "getMore":
            return self._page(self.documents, int(command["getMore"]), command)
        return {"ok": 1.0}

    def _page(
        self, found: list[dict[str, Any]], first: int, command: dict[str, Any]
    ) -> dict[str, Any]:
        # A cursor's id is the number of its next document.
        end = first + command.get("batchSize", 101)
        collection = command.get("find") or command["collection"]
        return {
            "ok": 1.0,
            "cursor": {
                "id": bson.Int64(end if end < len(found) and not command.get("limit") else 0),
                "ns": f"{command['$db']}.{collection}",
                "nextBatch" if first else "firstBatch": found[first:end],
            },
        }


class _Connection(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        while True:
            head = self._read(16)
            if len(head) < 16:
                return
            length, request, _, kind = struct.unpack("<iiii", head)
            body = self._read(length - 16)
            if kind == OP_MSG:
                answer = bson.encode(self.server.answer(bson.decode(body[5:])))
                self._send(OP_MSG, request, struct.pack("<IB", 0, 0) + answer)
            else:
                after_name = body.index(b"\0", 4) + 1 + 8
                answer = bson.encode(self.server.answer(bson.decode(body[after_name:])))
                self._send(OP_REPLY, request, struct.pack("<iqii", 8, 0, 0, 1) + answer)

    def _send(self, kind: int, to: int, body: bytes) -> None:
        self.request.sendall(struct.pack("<iiii", 16 + len(body), 1, to, kind) + body)

    def _read(self, length: int) -> bytes:
        found = b""
        while len(found) < length and (more := self.request.recv(length - len(found))):
            found += more
        return found


def _fits(document: dict[str, Any], where: dict[str, Any]) -> bool:
    return all(document.get(name) == value for name, value in where.items())


@contextmanager
def serving(documents: list[dict[str, Any]]) -> Iterator[tuple[Server, int]]:
    """Serve documents until the block ends; gives the port too."""
    with Server(documents) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server, server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
