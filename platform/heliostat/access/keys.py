"""API keys with roles: who may read, steer or replace models; only digests are kept."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from heliostat.config import require
from heliostat.errors import ConfigError, nearest

Role = Literal["predict", "operate", "admin"]
"""Each may do what the ones before it may: read and label; steer rollouts; replace versions."""

ROLES: tuple[Role, ...] = get_args(Role)
_PREFIX = "hs_"


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Somebody with a key."""

    name: str
    role: Role
    digest: str
    """SHA-256 of the key, hexadecimal. A key has 256 random bits, so no slow hash is needed."""

    def __post_init__(self) -> None:
        where = f"keys.{self.name}"
        require(self.role in ROLES, f"{where}.role", self.role, nearest(str(self.role), ROLES))
        require(len(self.digest) == 64, f"{where}.digest", len(self.digest), "needs 64 digits")

    def may(self, role: Role) -> bool:
        """Whether this role includes the other one.

        >>> Holder(name="ci", role="operate", digest="0" * 64).may("predict")
        True
        """
        return ROLES.index(self.role) >= ROLES.index(role)


class Keys:
    """All holders; finds the one of a presented key."""

    def __init__(self, holders: list[Holder]) -> None:
        """Hold the holders; nobody is let in who is not among them."""
        self._holders = tuple(holders)

    def holder(self, authorization: str) -> Holder | None:
        """Return whose key an ``Authorization`` header carries, or None; never raises.

        Every holder is compared, each in the same time, so that nothing is learnt from it.
        """
        scheme, _, key = authorization.partition(" ")
        digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        found = None
        for holder in self._holders:
            if hmac.compare_digest(holder.digest, digest):
                found = holder
        return found if scheme.lower() == "bearer" and key.startswith(_PREFIX) else None


def load(path: Path) -> Keys | None:
    """Read the holders; None where there is no file, so that nobody needs a key.

    The file is ``{"NAME": {"role": "operate", "digest": "..."}}`` with mode 0600.

    Raises:
        ConfigError: It can be read by others, or is not of that form. An empty file locks
            everybody out.
    """
    if not path.exists():
        return None
    mode = path.stat().st_mode & 0o777
    require(
        mode & 0o077 == 0, str(path), f"mode {mode:o}", "must not be readable by group or others",
        next_step=f"chmod 600 '{path}'",
    )  # fmt: skip
    try:
        raw = json.loads(path.read_text(encoding="utf-8") or "{}")
        return Keys([Holder(name=name, **entry) for name, entry in raw.items()])
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            str(path), "its content", 'must read {"NAME": {"role": ROLE, "digest": SHA-256}}'
        ) from error


def create() -> tuple[str, str]:
    """Make a key; returns it, to be shown once, and its digest, to be kept."""
    key = _PREFIX + secrets.token_urlsafe(32)
    return key, hashlib.sha256(key.encode()).hexdigest()
