"""Sends bytes over connections of their own and reads what comes back."""

from __future__ import annotations

import contextlib
import re
import socket
import time

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")


def statuses(port: int, sent: bytes, *, timeout_s: float = 15.0) -> list[int]:
    """Send and read until the connection is closed; the status of each answer, [0] for none."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        received = b""
        # Where it is closed before all was sent, an answer may still be there.
        with contextlib.suppress(OSError):
            connection.sendall(sent)
        ends = time.monotonic() + timeout_s
        try:
            while time.monotonic() < ends:
                piece = connection.recv(65536)
                if not piece:
                    break
                received += piece
                if b"content-length" in received.lower() and _is_whole(received):
                    connection.settimeout(0.05)
        except OSError:
            pass
    return [int(text) for text in _STATUS.findall(received)] or [0]


def _is_whole(received: bytes) -> bool:
    head, _, body = received.partition(b"\r\n\r\n")
    found = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    return found is not None and len(body) >= int(found[1])


def held(port: int, pieces: list[bytes], *, gap_s: float, most_s: float) -> tuple[float, int]:
    """Send pieces with gaps, then nothing; return the seconds to the end and the status."""
    began = time.monotonic()
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=most_s) as connection:
        connection.settimeout(gap_s)
        left = list(pieces)
        while time.monotonic() - began < most_s:
            try:
                if left:
                    connection.sendall(left.pop(0))
                piece = connection.recv(65536)
                if not piece:
                    break
                received += piece
            except TimeoutError:
                continue
            except OSError:
                break
    found = _STATUS.search(received)
    return time.monotonic() - began, int(found[1]) if found else 0
