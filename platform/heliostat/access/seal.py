"""Short-lived proof that a request was made by a part of this platform, not by a client."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from heliostat.config import require
from heliostat.errors import ConfigError

_KEY_BYTES = 32
_VERSION = "1"


class Seal:
    """Signs and checks requests between gateway, variants and controller with one shared key.

    A seal covers the request id, the policy epoch, the body and the time, so that it is of
    no use for another request, and of none at all after `ttl_s`. Within that time the very
    same request can be repeated; only routes that are safe to repeat may rely on it.
    """

    def __init__(
        self, key: bytes, *, ttl_s: float = 10.0, clock: Callable[[], float] = time.time
    ) -> None:
        """Hold the key.

        Args:
            key: At least 32 random bytes.
            ttl_s: How far the signer's clock may be from the checker's, either way.
            clock: Seconds since 1970.

        Raises:
            ConfigError: The key is too short. It is not shown.
        """
        if len(key) < _KEY_BYTES:
            raise ConfigError("seal key", f"{len(key)} bytes", f"must have at least {_KEY_BYTES}")
        require(ttl_s > 0, "seal.ttl_s", ttl_s, "must be above 0")
        self._mac = hmac.new(key, digestmod=hashlib.sha256)
        self._ttl_ms = int(ttl_s * 1000)
        self._clock = clock

    def sign(self, request_id: str, epoch: int, body: bytes) -> str:
        """Return the seal, an ASCII text that fits into a header."""
        at_ms = int(self._clock() * 1000)
        return f"{_VERSION}.{at_ms}.{self._digest(at_ms, request_id, epoch, body)}"

    def check(self, seal: str, request_id: str, epoch: int, body: bytes) -> bool:
        """Say whether the seal was made with our key for exactly this request, just now.

        Never raises for a malformed seal. The comparison takes the same time for every
        wrong digest.
        """
        version, _, rest = seal.partition(".")
        stamp, _, digest = rest.partition(".")
        if version != _VERSION or not (stamp.isascii() and stamp.isdigit() and len(stamp) < 16):
            return False
        at_ms = int(stamp)
        expected = self._digest(at_ms, request_id, epoch, body)
        genuine = hmac.compare_digest(digest.encode(), expected.encode())
        return genuine and abs(self._clock() * 1000 - at_ms) <= self._ttl_ms

    def _digest(self, at_ms: int, request_id: str, epoch: int, body: bytes) -> str:
        mac = self._mac.copy()
        name = request_id.encode("utf-8", "surrogatepass")
        mac.update(b"%d.%d.%d." % (at_ms, epoch, len(name)))
        mac.update(name)
        mac.update(body)
        return mac.hexdigest()


def load_or_create(path: Path) -> Seal:
    """Read the shared key, or make it if no process has made it yet.

    Raises:
        ConfigError: As for `read_or_create`.
    """
    return Seal(read_or_create(path))


def read_or_create(path: Path) -> bytes:
    """Read a file of 32 random bytes, or make it if no process has made it yet.

    The file has mode 0600. Two processes that start at once agree on one content.

    Raises:
        ConfigError: The file is readable by others, or too short.
    """
    if not path.exists():
        _create(path)
    mode = path.stat().st_mode & 0o777
    require(
        mode & 0o077 == 0,
        str(path),
        f"mode {mode:o}",
        "must not be readable by group or others",
        next_step=f"chmod 600 '{path}'",
    )
    key = path.read_bytes()
    require(
        len(key) >= _KEY_BYTES, str(path), f"{len(key)} bytes", f"must have at least {_KEY_BYTES}"
    )
    return key


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()
