"""Tokens of outside issuers: the good one passes, every class of forgery does not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from heliostat.access.roles import Principal
from heliostat.access.tokens import Issuer, TokenChecker
from heliostat.errors import ConfigError, Unavailable
from heliostat.testing.clock import Clock

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CURVE = ec.generate_private_key(ec.SECP256R1())
ISSUER = Issuer(
    issuer="https://id.example", audience="heliostat", algorithm="RS256", jwks="/keys.json"
)
PEM = KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


def jwk(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    algorithm = jwt.algorithms.ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else (
        jwt.algorithms.RSAAlgorithm
    )  # fmt: skip
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": kid, **more}


def checker(*keys: dict[str, Any], issuer: Issuer = ISSUER) -> TokenChecker:
    body = json.dumps({"keys": list(keys) or [jwk(KEY, "k1")]}).encode()
    made = TokenChecker((issuer,), fetch=lambda _: body)
    assert made.refresh() == []
    return made


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


def test_a_good_token_names_subject_role_and_models() -> None:
    """The role comes from the issuer's claim; without one it may only predict."""
    tokens = checker()
    plain = tokens.check(signed())
    more = tokens.check(
        signed(claims(heliostat_role="operate", heliostat_models=["churn"], sub="ops"))
    )

    assert plain == Principal(name="https://id.example#svc", role="predict")
    assert more == Principal(
        name="https://id.example#ops", role="operate", models=frozenset({"churn"})
    )


def test_elliptic_curves_work_as_well() -> None:
    """Where the issuer is pinned to them, and only there."""
    import dataclasses

    issuer = dataclasses.replace(ISSUER, algorithm="ES256")
    tokens = checker(jwk(CURVE, "k1"), issuer=issuer)

    assert tokens.check(signed(key=CURVE, algorithm="ES256")) is not None
    assert tokens.check(signed()) is None


now = int(time.time())
FORGED = {
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


@pytest.mark.parametrize("name", FORGED)
def test_every_class_of_forged_token_is_refused(name: str) -> None:
    """Twice, since what was refused must not be remembered as good."""
    tokens = checker()

    assert [tokens.check(FORGED[name]), tokens.check(FORGED[name])] == [None, None]


def test_a_token_ends_with_its_time_even_when_it_was_good_before() -> None:
    """What is remembered of a good token ends with the token."""
    clock = Clock(time.time())
    body = json.dumps({"keys": [jwk(KEY, "k1")]}).encode()
    tokens = TokenChecker((ISSUER,), clock=clock, fetch=lambda _: body)
    tokens.refresh()
    token = signed()

    assert tokens.check(token) is not None
    clock.advance(200.0)
    assert tokens.check(token) is None


def test_unknown_keys_cause_one_fetch_at_a_time_and_never_wait() -> None:
    """A thousand tokens with invented key ids cost the issuer nothing."""
    clock = Clock(time.time())
    served, asked = [jwk(KEY, "k1")], []

    def fetch(where: str) -> bytes:
        asked.append(where)
        return json.dumps({"keys": served}).encode()

    tokens = TokenChecker((ISSUER,), clock=clock, fetch=fetch)
    tokens.refresh()
    for number in range(1_000):
        assert (
            tokens.check(signed(kid=f"k{number}", key=OTHER) if number < 3 else signed(kid="x"))
            is None
        )
        tokens.refresh()
    assert len(asked) == 1

    served.append(jwk(OTHER, "k9"))
    clock.advance(31.0)
    rotated = signed(key=OTHER, kid="k9")
    assert tokens.check(rotated) is None
    tokens.refresh()
    assert tokens.check(rotated) is not None
    assert asked == ["/keys.json"] * 2


def test_an_issuer_that_is_down_locks_nobody_out() -> None:
    """Its keys stay; what went wrong is told."""
    clock = Clock(time.time())
    answers: list[bytes | None] = [json.dumps({"keys": [jwk(KEY, "k1")]}).encode(), None, b"{}x"]

    def fetch(_: str) -> bytes:
        body = answers.pop(0)
        if body is None:
            raise Unavailable("key set", "down")
        return body

    tokens = TokenChecker((ISSUER,), clock=clock, fetch=fetch)
    tokens.refresh()
    clock.advance(301.0)
    assert tokens.refresh() == ["https://id.example: key set: down"]
    clock.advance(31.0)
    assert len(tokens.refresh()) == 1
    assert tokens._keys["https://id.example"].keys() == {"k1"}


def test_weak_and_foreign_keys_of_a_set_are_not_used() -> None:
    """Short RSA keys, keys for encryption, keys of another algorithm."""
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    tokens = checker(
        jwk(weak, "weak"), jwk(KEY, "enc", use="enc"), jwk(KEY, "ps", alg="PS256"), jwk(CURVE, "ec")
    )

    assert tokens._keys["https://id.example"] == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"algorithm": "HS256"},
        {"algorithm": "none"},
        {"audience": ""},
        {"jwks": "http://id.example/keys"},
        {"jwks": "keys.json"},
        {"leeway_s": 600.0},
    ],
)
def test_an_issuer_must_be_pinned_to_something_safe(wrong: dict[str, Any]) -> None:
    """Checked when it is configured."""
    import dataclasses

    with pytest.raises(ConfigError):
        dataclasses.replace(ISSUER, **wrong)
