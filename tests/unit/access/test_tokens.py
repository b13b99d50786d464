"""Tokens of outside issuers: the good one passes, every class of forgery does not."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from heliostat.access.roles import Principal
from heliostat.access.tokens import Issuer, TokenChecker
from heliostat.errors import ConfigError, Unavailable
from heliostat.testing.clock import Clock
from tests.unit.access.forged import CURVE, KEY, OTHER, claims, forged, jwk, signed

ISSUER = Issuer(
    issuer="https://id.example", audience="heliostat", algorithm="RS256", jwks="/keys.json"
)
FORGED = forged()


def checker(*keys: dict[str, Any], issuer: Issuer = ISSUER) -> TokenChecker:
    body = json.dumps({"keys": list(keys) or [jwk(KEY, "k1")]}).encode()
    made = TokenChecker((issuer,), fetch=lambda _: body)
    assert made.refresh() == []
    return made


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
