"""Tokens that nobody may be let in with, and the keys and claims of one that is good.

A table for the checker alone and for the real chain: `forged` makes them anew, since most are
forged in one respect only and would soon be refused for their age instead.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CURVE = ec.generate_private_key(ec.SECP256R1())
PEM = KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


def jwk(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    algorithm = jwt.algorithms.ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else (
        jwt.algorithms.RSAAlgorithm
    )  # fmt: skip
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, **more}


def claims(**more: Any) -> dict[str, Any]:
    now = int(time.time())
    return {
        "iss": "https://id.example", "aud": "heliostat", "sub": "svc", "iat": now,
        "exp": now + 60, **more,
    }  # fmt: skip


def signed(
    body: dict[str, Any] | None = None,
    *,
    key: Any = KEY,
    algorithm: str = "RS256",
    without: str | None = None,
    **head: Any,
) -> str:
    payload = claims() if body is None else body
    payload.pop(without, None)
    return jwt.encode(payload, key, algorithm=algorithm, headers={"kid": "k1", **head})


def part(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def by_hand(head: Any, body: Any, signature: bytes = b"") -> str:
    return f"{part(head)}.{part(body)}.{part(signature)}"


def with_hmac(secret: bytes, algorithm: str = "HS256") -> str:
    """A token signed with a public key as if it were a shared secret."""
    text = f"{part({'alg': algorithm, 'kid': 'k1', 'typ': 'JWT'})}.{part(claims())}"
    return f"{text}.{part(hmac.digest(secret, text.encode(), hashlib.sha256))}"


def forged() -> dict[str, str]:
    """One token of each class."""
    now = int(time.time())
    return {
        "empty": "",
        "no dots": "abc",
        "two dots only": "..",
        "not base64": "!!.!!.!!",
        "none": by_hand({"alg": "none", "kid": "k1"}, claims()),
        "None": by_hand({"alg": "None", "kid": "k1"}, claims()),
        "no alg": by_hand({"kid": "k1"}, claims(), b"x"),
        "alg is a list": by_hand({"alg": ["RS256"], "kid": "k1"}, claims(), b"x"),
        "HS256 with the public key": with_hmac(PEM),
        "HS256 with the public key, no newline": with_hmac(PEM.strip()),
        "HS256 with an empty secret": with_hmac(b""),
        "RS384": signed(algorithm="RS384"),
        "PS256": signed(algorithm="PS256"),
        "ES256": signed(key=CURVE, algorithm="ES256"),
        "another key": signed(key=OTHER),
        "another key with its jwk": signed(key=OTHER, jwk=jwk(OTHER, "k1")),
        "jku": signed(jku="https://evil.example/keys"),
        "x5u": signed(x5u="https://evil.example/cert"),
        "x5c": signed(x5c=["MIIB"]),
        "crit": signed(crit=["exp"]),
        "crit unknown": signed(crit=["http://evil.example"]),
        "unknown kid": signed(kid="k2"),
        "kid traversal": signed(kid="../../../dev/null"),
        "kid empty": signed(kid=""),
        "kid is a number": by_hand({"alg": "RS256", "kid": 1}, claims(), b"x"),
        "no kid": jwt.encode(claims(), KEY, algorithm="RS256"),
        "empty signature": ".".join(signed().split(".")[:2]) + ".",
        "signature cut": signed()[:-8],
        "body changed": "{}.{}.{}".format(
            signed().split(".")[0], part(claims(heliostat_role="admin")), signed().split(".")[2]
        ),
        "expired": signed(claims(exp=now - 120)),
        "no exp": signed(without="exp"),
        "no iat": signed(without="iat"),
        "no sub": signed(without="sub"),
        "no aud": signed(without="aud"),
        "no iss": signed(without="iss"),
        "exp is text": signed(claims(exp="never")),
        "exp is infinite": by_hand({"alg": "RS256", "kid": "k1"}, b'{"exp":Infinity}', b"x"),
        "not yet valid": signed(claims(nbf=now + 600)),
        "issued in the future": signed(claims(iat=now + 600)),
        "wrong aud": signed(claims(aud="other")),
        "aud is a list": signed(claims(aud=["heliostat", "other"])),
        "wrong iss": signed(claims(iss="https://evil.example")),
        "iss with a slash": signed(claims(iss="https://id.example/")),
        "unknown role": signed(claims(heliostat_role="root")),
        "models is text": signed(claims(heliostat_models="churn")),
        "1 MB": signed(claims(pad="x" * 1_000_000)),
        "claims are a list": by_hand({"alg": "RS256", "kid": "k1"}, [1], b"x"),
        "head is a list": by_hand([1], claims(), b"x"),
        "duplicate claims": by_hand(
            {"alg": "RS256", "kid": "k1"}, b'{"iss":"https://id.example","iss":"https://id.example"}', b"x"
        ),
        "nested deep": by_hand({"alg": "RS256", "kid": "k1"}, b"[" * 3_000 + b"]" * 3_000, b"x"),
        "API key": "hs_aaaaaaaa_" + "a" * 43,
        "non-ASCII": signed()[:-4] + "éééé",
    }  # fmt: skip
