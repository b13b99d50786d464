"""API keys: 256 random bits each, kept as an HMAC, rotated with overlap, revoked at once.

A key reads ``hs_<id>_<secret>``. The file holds its id, what it may do, and
HMAC-SHA-256(pepper, secret): neither the file nor the pepper alone opens anything. Slow password
hashes would only help against guessing, and 256 bits are not guessed.
"""

from __future__ import annotations

import base64
import fcntl
import hmac
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from heliostat.access.roles import Principal
from heliostat.access.seal import read_or_create
from heliostat.config import require
from heliostat.errors import ConfigError, nearest

_SECRET_BYTES = 32
_FORM = re.compile(r"hs_([a-z2-7]{8})_([A-Za-z0-9_-]{43})", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiKey:
    """What is known of one key; its secret is not."""

    id: str
    mac: str
    """HMAC-SHA-256 of the secret, hexadecimal."""

    owner: str
    role: str
    models: tuple[str, ...] | None = None
    rate_per_s: float | None = None
    burst: int = 1
    created_at: float
    """Seconds since 1970, as all times here."""

    ends_at: float | None = None
    """Refused from then on: set by its owner, by a rotation or by a revocation."""

    @property
    def principal(self) -> Principal:
        """The caller that holds this key."""
        return Principal(
            name=self.id,
            role=self.role,
            models=None if self.models is None else frozenset(self.models),
            rate_per_s=self.rate_per_s,
            burst=self.burst,
        )


class KeyRing:
    """The keys as they were in the file when it was read; immutable, safe to share."""

    def __init__(self, pepper: bytes, keys: Mapping[str, ApiKey]) -> None:
        """Hold what `read` has found; call `read` instead."""
        self._pepper = pepper
        self._known = {
            key.id: (bytes.fromhex(key.mac), key.ends_at, key.principal) for key in keys.values()
        }

    def find(self, text: str, now: float) -> Principal | None:
        """Say who holds this key; None for a malformed, unknown, wrong, ended or revoked one.

        The comparison takes the same time for every wrong secret.
        """
        form = _FORM.fullmatch(text)
        if form is None:
            return None
        known = self._known.get(form[1])
        if known is None:
            return None
        mac, ends_at, principal = known
        if not hmac.compare_digest(mac, _mac(self._pepper, form[2])):
            return None
        return principal if ends_at is None or now < ends_at else None

    def __len__(self) -> int:
        return len(self._known)


class KeyFile:
    """The file with all keys, and the pepper beside it; changes are atomic and take turns."""

    def __init__(self, keys_dir: Path, clock: Callable[[], float]) -> None:
        """Name the folder; nothing is read or made yet.

        Args:
            keys_dir: The platform's folder of keys, mode 0700.
            clock: Seconds since 1970.
        """
        self._path = keys_dir / "api_keys.json"
        self._pepper = keys_dir / "api_keys.pepper"
        self._clock = clock

    def stamp(self) -> tuple[int, int] | None:
        """What differs after every change; None where there is no file yet."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns

    def ring(self) -> KeyRing:
        """Read all keys.

        Raises:
            ConfigError: The file is not what this module writes, or others may read it.
        """
        return KeyRing(read_or_create(self._pepper), self._read())

    def list(self) -> list[ApiKey]:
        """Every key, oldest first."""
        return sorted(self._read().values(), key=lambda key: key.created_at)

    def create(
        self,
        owner: str,
        *,
        role: str = "predict",
        models: tuple[str, ...] | None = None,
        rate_per_s: float | None = None,
        burst: int | None = None,
        ends_at: float | None = None,
    ) -> tuple[str, ApiKey]:
        """Make a key; its text is returned this once and kept nowhere.

        Args:
            owner: Who will hold it, for people who look at the list.
            burst: Default is one second's worth of the rate.

        Raises:
            ConfigError: The role, the rate or the owner cannot be meant.
        """
        require(0 < len(owner) <= 200, "key.owner", owner, "must be 1 to 200 characters")
        if burst is None:
            burst = max(1, int(rate_per_s)) if rate_per_s else 1
        draft = ApiKey(
            id="", mac="", owner=owner, role=role, models=models, rate_per_s=rate_per_s,
            burst=burst, created_at=self._clock(), ends_at=ends_at,
        )  # fmt: skip
        _ = draft.principal  # checks it before anything is written
        with self._changing() as keys:
            return self._add(keys, draft)

    def rotate(self, key_id: str, *, overlap_s: float) -> tuple[str, ApiKey]:
        """Make a successor with the same rights; the old key ends after the overlap.

        Raises:
            ConfigError: There is no such key, or it has ended.
        """
        require(overlap_s >= 0, "overlap_s", overlap_s, "must not be below 0")
        now = self._clock()
        with self._changing() as keys:
            old = _pick(keys, key_id)
            require(old.ends_at is None or old.ends_at > now, "key", key_id, "must not have ended")
            text, new = self._add(keys, replace(old, created_at=now))
            keys[key_id] = replace(old, ends_at=min(now + overlap_s, old.ends_at or float("inf")))
            return text, new

    def revoke(self, key_id: str) -> ApiKey:
        """End a key now; gateways refuse it as soon as they have read the file again.

        Raises:
            ConfigError: There is no such key.
        """
        with self._changing() as keys:
            old = _pick(keys, key_id)
            now = self._clock()
            ended = now if old.ends_at is None else min(now, old.ends_at)
            keys[key_id] = replace(old, ends_at=ended)
            return keys[key_id]

    def _add(self, keys: dict[str, ApiKey], draft: ApiKey) -> tuple[str, ApiKey]:
        key_id = base64.b32encode(secrets.token_bytes(5)).decode().lower()
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        mac = _mac(read_or_create(self._pepper), secret).hex()
        key = keys[key_id] = replace(draft, id=key_id, mac=mac)
        return f"hs_{key_id}_{secret}", key

    def _read(self) -> dict[str, ApiKey]:
        try:
            mode = self._path.stat().st_mode & 0o777
            raw = json.loads(self._path.read_text(encoding="utf-8"))
            keys = [
                ApiKey(**{**item, "models": None if item["models"] is None else (*item["models"],)})
                for item in raw["keys"]
            ]
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(str(self._path), type(error).__name__, "must be readable") from error
        require(mode & 0o077 == 0, str(self._path), f"mode {mode:o}", "must be 600")
        return {key.id: key for key in keys}

    @contextmanager
    def _changing(self) -> Iterator[dict[str, ApiKey]]:
        """Give the keys to be changed; write them when the block ends well."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            keys = self._read()
            yield keys
            draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump({"keys": [asdict(key) for key in keys.values()]}, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)


def _pick(keys: Mapping[str, ApiKey], key_id: str) -> ApiKey:
    if key_id not in keys:
        raise ConfigError("key", key_id, "must be the id of a key", breaks=nearest(key_id, keys))
    return keys[key_id]


def _mac(pepper: bytes, secret: str) -> bytes:
    return hmac.digest(pepper, secret.encode(), "sha256")
