"""JSON Web Tokens of outside issuers: one algorithm and one key set per issuer, no exceptions.

Keys are fetched beside the requests, never for one: a token with an unknown key id is refused, and
asks for a fetch that happens at most every half minute.
"""

from __future__ import annotations

import hashlib
import json
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heliostat.access.roles import ROLES, Principal
from heliostat.config import require
from heliostat.errors import ConfigError, Unavailable, nearest

ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512")
"""Signatures with a public key; a shared secret would let every checker also sign."""

MAX_TOKEN_CHARS = 8_192
_MAX_JWKS_BYTES = 256 << 10
_FETCH_TIMEOUT_S = 3.0
_MIN_RSA_BITS = 2_048
_MAX_REMEMBERED = 4_096
_STEERING = frozenset({"crit", "jku", "jwk", "x5u", "x5c"})
"""Header fields by which a token names the key or the rules of its own check."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Issuer:
    """One identity provider and what its tokens are worth here."""

    issuer: str
    """The exact ``iss``."""

    audience: str
    """The exact ``aud``."""

    algorithm: str
    jwks: str
    """Where its public keys are: an https URL, http on loopback, or an absolute path."""

    role_claim: str = "heliostat_role"
    """The claim that names a role; without it a token may only predict."""

    models_claim: str = "heliostat_models"
    """The claim that lists the only models it may ask for; without it, all."""

    rate_per_s: float | None = None
    """Requests per second of each subject, over all replicas."""

    leeway_s: float = 30.0
    """How far the issuer's clock may be off."""

    refresh_s: float = 300.0
    """The key set is fetched again after this."""

    retry_s: float = 30.0
    """Least time between two fetches, whatever tokens come."""

    def __post_init__(self) -> None:
        where = f"issuer {self.issuer}"
        require(bool(self.issuer and self.audience), where, self.audience, "must have an audience")
        require(
            self.algorithm in ALGORITHMS,
            f"{where}.algorithm", self.algorithm, "must be pinned to one public-key algorithm",
            breaks=nearest(self.algorithm, ALGORITHMS),
        )  # fmt: skip
        local = self.jwks.startswith(("http://127.0.0.1", "http://localhost"))
        require(
            local or self.jwks.startswith("https://") or Path(self.jwks).is_absolute(),
            f"{where}.jwks", self.jwks, "must be an https URL or an absolute path",
        )  # fmt: skip
        require(0 <= self.leeway_s <= 60, f"{where}.leeway_s", self.leeway_s, "must be 0 to 60")


def read_issuers(path: Path) -> tuple[Issuer, ...]:
    """Read ``{"issuers": [{...}]}``; no file means no issuer.

    Raises:
        ConfigError: The file is no such JSON, or an issuer breaks a rule.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return tuple(Issuer(**item) for item in raw["issuers"])
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(str(path), str(error), "must hold a list of issuers") from error


def fetch(where: str) -> bytes:
    """Read a key set from a URL or a file.

    Raises:
        Unavailable: It did not come in time, or is too large.
    """
    try:
        if not where.startswith("http"):
            return Path(where).read_bytes()[:_MAX_JWKS_BYTES]
        with urllib.request.urlopen(where, timeout=_FETCH_TIMEOUT_S) as answer:  # noqa: S310 - checked
            body: bytes = answer.read(_MAX_JWKS_BYTES + 1)
    except OSError as error:
        raise Unavailable("key set", f"{where}: {error}") from error
    if len(body) > _MAX_JWKS_BYTES:
        raise Unavailable("key set", f"{where}: more than {_MAX_JWKS_BYTES} bytes")
    return body


class TokenChecker:
    """Checks tokens against the keys it has; call `refresh` beside the requests."""

    def __init__(
        self,
        issuers: tuple[Issuer, ...],
        *,
        clock: Callable[[], float] = time.time,
        fetch: Callable[[str], bytes] = fetch,
    ) -> None:
        """Begin without keys: everything is refused until the first `refresh`."""
        self._issuers = {issuer.issuer: issuer for issuer in issuers}
        require(len(self._issuers) == len(issuers), "issuers", len(issuers), "must differ")
        self._clock = clock
        self._fetch = fetch
        self._keys: dict[str, dict[str, Any]] = {name: {} for name in self._issuers}
        self._fetched_at = dict.fromkeys(self._issuers, float("-inf"))
        self._wanted: set[str] = set(self._issuers)
        self._good: dict[bytes, tuple[Principal, float]] = {}

    @property
    def is_used(self) -> bool:
        """Whether there is any issuer."""
        return bool(self._issuers)

    def check(self, token: str) -> Principal | None:
        """Say who holds this token; None for any that is not wholly right."""
        now = self._clock()
        name = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        known = self._good.get(name)
        if known is not None and now < known[1]:
            return known[0]
        found = self._verify(token, now)
        if found is None:
            return None
        if len(self._good) >= _MAX_REMEMBERED:
            self._good.clear()
        self._good[name] = found
        return found[0]

    def refresh(self) -> list[str]:
        """Fetch the key sets that are old or asked for; blocks. Returns what went wrong.

        A set that cannot be fetched stays as it is: a provider that is down locks nobody out.
        """
        problems = []
        for name, issuer in self._issuers.items():
            age_s = self._clock() - self._fetched_at[name]
            if age_s < issuer.retry_s or not (age_s >= issuer.refresh_s or name in self._wanted):
                continue
            self._fetched_at[name] = self._clock()
            self._wanted.discard(name)
            try:
                keys = _read_keys(self._fetch(issuer.jwks), issuer.algorithm)
            except (Unavailable, ValueError) as error:
                problems.append(f"{name}: {error}")
                self._wanted.add(name)
                continue
            if keys.keys() != self._keys[name].keys():
                self._good.clear()
            self._keys[name] = keys
        return problems

    def _verify(self, token: str, now: float) -> tuple[Principal, float] | None:
        import jwt

        if len(token) > MAX_TOKEN_CHARS or token.count(".") != 2:
            return None
        try:
            head = jwt.get_unverified_header(token)
            claimed = jwt.decode(token, options={"verify_signature": False})
            issuer = self._issuers.get(str(claimed.get("iss")))
            key_id = head.get("kid")
            if issuer is None or head.get("alg") != issuer.algorithm or _STEERING & head.keys():
                return None
            key = self._keys[issuer.issuer].get(key_id) if isinstance(key_id, str) else None
            if key is None:
                self._wanted.add(issuer.issuer)
                return None
            claims = jwt.decode(
                token,
                key,
                algorithms=[issuer.algorithm],
                audience=issuer.audience,
                issuer=issuer.issuer,
                leeway=issuer.leeway_s,
                options={"require": ["exp", "iat", "aud", "iss", "sub"], "strict_aud": True},
            )
            # The library reads the machine's clock; ours may be another in tests, never laxer.
            if not now < claims["exp"] + issuer.leeway_s:
                return None
            return _principal(issuer, claims), float(claims["exp"])
        except (jwt.PyJWTError, ConfigError, ValueError, TypeError, RecursionError):
            return None


def _principal(issuer: Issuer, claims: Mapping[str, Any]) -> Principal:
    role = claims.get(issuer.role_claim, ROLES[0])
    models = claims.get(issuer.models_claim)
    if models is not None and not (
        isinstance(models, list) and all(isinstance(name, str) for name in models)
    ):
        raise ValueError("models must be a list of names")
    return Principal(
        name=f"{issuer.issuer}#{claims['sub']}"[:200],
        role=role,
        models=None if models is None else frozenset(models),
        rate_per_s=issuer.rate_per_s,
        burst=max(1, int(issuer.rate_per_s or 1)),
    )


def _read_keys(body: bytes, algorithm: str) -> dict[str, Any]:
    """Take the keys that fit the algorithm, by id; a key without an id cannot be named."""
    import jwt

    raw = json.loads(body)
    found = {}
    for item in raw["keys"] if isinstance(raw, dict) and isinstance(raw.get("keys"), list) else ():
        if not isinstance(item, dict) or not isinstance(item.get("kid"), str):
            continue
        if item.get("kty") != ("RSA" if algorithm.startswith("RS") else "EC"):
            continue
        if item.get("use", "sig") != "sig" or item.get("alg", algorithm) != algorithm:
            continue
        try:
            key = jwt.PyJWK(item, algorithm=algorithm).key
        except jwt.PyJWTError as error:
            raise ValueError(f"key {item['kid'][:40]}: {error}") from error
        if algorithm.startswith("RS") and key.key_size < _MIN_RSA_BITS:
            continue
        found[item["kid"]] = key
    return found
