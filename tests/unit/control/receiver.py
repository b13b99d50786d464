"""A small HTTP server of tests: remembers what it was sent and answers what it is told to."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from heliostat.testing.ports import free_ports


class Receiver:
    """Listens on loopback as a context."""

    def __init__(self) -> None:
        self.posts: list[tuple[dict[str, str], bytes]] = []
        """Headers, in lower case, and bodies."""

        self.status = 200
        self.answer: Any = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                outer.posts.append((headers, body))
                self.send_response(outer.status)
                self.end_headers()
                text = outer.answer if isinstance(outer.answer, str) else json.dumps(outer.answer)
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", free_ports(1)[0]), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
