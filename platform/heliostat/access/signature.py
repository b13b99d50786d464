"""Signs what is sent to addresses outside, so that a receiver knows that it came from here."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

HEADER = "x-heliostat-signature"

TOLERANCE_S = 300.0
"""A receiver refuses what was signed longer ago: it may be a repetition by somebody else."""


def sign(key: bytes, body: bytes, at: float) -> str:
    """Return the header's value: the time, and HMAC-SHA256 of ``time.body`` in hex.

    >>> sign(b"k", b"{}", 1.0)[:12]
    't=1,v1=3dd49'
    """
    return f"t={int(at)},v1={_digest(key, body, int(at))}"


def verify(key: bytes, header: str, body: bytes, now: float) -> bool:
    """Say whether the body was signed with the key less than `TOLERANCE_S` from now.

    Never raises for a malformed header.
    """
    stamp, _, digest = header.partition(",v1=")
    text = stamp.removeprefix("t=")
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        return False
    genuine = hmac.compare_digest(digest.encode(), _digest(key, body, int(text)).encode())
    return genuine and abs(now - int(text)) <= TOLERANCE_S


def load_or_create_key(path: Path) -> bytes:
    """Read the key that receivers share, or make it; only its owner may read the file.

    The file holds it as hex, the form in which a receiver is given it. The key is that text.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes().strip()
    key = secrets.token_hex(32).encode()
    with os.fdopen(handle, "wb") as file:
        file.write(key)
    return key


def _digest(key: bytes, body: bytes, at_s: int) -> str:
    return hmac.new(key, b"%d." % at_s + body, hashlib.sha256).hexdigest()
