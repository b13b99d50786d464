"""API keys: made once, checked, limited to roles and models, rotated, revoked."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from heliostat.access.keys import ApiKey, KeyFile
from heliostat.access.roles import ROLES, Principal
from heliostat.errors import ConfigError
from heliostat.testing.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(tmp_path: Path, clock: Clock) -> KeyFile:
    return KeyFile(tmp_path / "keys", clock)


def test_a_key_says_who_holds_it(keys: KeyFile, clock: Clock) -> None:
    """With the role, the models and the rate it was made with."""
    text, key = keys.create("billing", role="operate", models=("churn",), rate_per_s=5.5)

    assert keys.ring().find(text, clock()) == Principal(
        name=key.id, role="operate", models=frozenset({"churn"}), rate_per_s=5.5, burst=5
    )
    assert keys.list() == [key]


def test_neither_file_holds_the_key(keys: KeyFile, tmp_path: Path) -> None:
    """Both are for their owner alone."""
    text, _ = keys.create("billing")
    secret = text.split("_", 2)[2]

    files = {path.name: path for path in (tmp_path / "keys").iterdir()}
    assert set(files) == {"api_keys.json", "api_keys.pepper", "api_keys.lock"}
    assert not any(secret.encode() in path.read_bytes() for path in files.values())
    assert {
        files[name].stat().st_mode & 0o777 for name in ("api_keys.json", "api_keys.pepper")
    } == {0o600}


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:-1],
        lambda text: text + "A",
        lambda text: text + "\n",
        lambda text: text.swapcase(),
        lambda text: text[:-1] + ("A" if text[-1] != "A" else "B"),
        lambda text: "hs_aaaaaaaa_" + text.split("_", 2)[2],
        lambda text: text.replace("hs_", "sk_"),
        lambda text: text.replace("_", "-"),
        lambda text: " " + text,
        lambda text: "hs_" + "é" * 8 + "_" + "a" * 43,
    ],
    ids=lambda change: f"line {change.__code__.co_firstlineno}",
)
def test_a_key_that_differs_at_all_is_nobodys(keys: KeyFile, clock: Clock, change) -> None:
    """Cut, longer, another case, another id, another form."""
    text, _ = keys.create("billing")

    assert keys.ring().find(change(text), clock()) is None


def test_a_key_of_another_platform_is_nobodys(keys: KeyFile, tmp_path: Path, clock: Clock) -> None:
    """Even with the same line in the file: the pepper differs."""
    text, _ = keys.create("billing")
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    (other / "api_keys.json").write_bytes((tmp_path / "keys" / "api_keys.json").read_bytes())
    (other / "api_keys.json").chmod(0o600)

    assert KeyFile(other, clock).ring().find(text, clock()) is None


def test_rotation_gives_both_keys_until_the_overlap_ends(keys: KeyFile, clock: Clock) -> None:
    """The successor has the same rights."""
    old_text, old = keys.create("billing", role="admin", rate_per_s=2.0)
    new_text, new = keys.rotate(old.id, overlap_s=60.0)

    assert dataclasses.replace(new, id=old.id, mac=old.mac) == old
    during = [bool(keys.ring().find(text, clock() + 59.9)) for text in (old_text, new_text)]
    after = [bool(keys.ring().find(text, clock() + 60.0)) for text in (old_text, new_text)]
    assert (during, after) == ([True, True], [False, True])


def test_a_revoked_key_ends_at_once_and_for_good(keys: KeyFile, clock: Clock) -> None:
    """It cannot be rotated back to life, and a reader notices by the file's stamp."""
    text, key = keys.create("billing")
    before = keys.stamp()
    keys.revoke(key.id)

    assert keys.stamp() != before
    assert keys.ring().find(text, clock()) is None
    with pytest.raises(ConfigError, match="must not have ended"):
        keys.rotate(key.id, overlap_s=1.0)
    with pytest.raises(ConfigError, match="must be the id of a key"):
        keys.revoke("nobody")


def test_a_key_file_that_cannot_be_trusted_is_refused(keys: KeyFile, tmp_path: Path) -> None:
    """Readable by others, or of another form."""
    keys.create("billing")
    path = tmp_path / "keys" / "api_keys.json"
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="must be 600"):
        keys.ring()
    path.chmod(0o600)
    path.write_text('{"keys": [{}]}')
    with pytest.raises(ConfigError, match="must be readable"):
        keys.ring()


@pytest.mark.parametrize(
    "wrong", [{"role": "root"}, {"rate_per_s": 0.0}, {"burst": 0}, {"owner": ""}]
)
def test_a_key_that_cannot_be_meant_is_not_made(keys: KeyFile, wrong) -> None:
    """And nothing is written."""
    with pytest.raises(ConfigError):
        keys.create(**{"owner": "billing", **wrong})
    assert keys.list() == []


@pytest.mark.parametrize("held", ROLES)
@pytest.mark.parametrize("needed", ROLES)
def test_each_role_holds_the_ones_before_it(held: str, needed: str) -> None:
    """The whole table."""
    assert Principal(name="k", role=held).may(needed, "any") == (
        ROLES.index(held) >= ROLES.index(needed)
    )


def test_what_is_kept_of_a_key_has_no_secret_field() -> None:
    """The list of keys can be shown to anybody who runs the platform."""
    assert {field.name for field in dataclasses.fields(ApiKey)} == {
        "id", "mac", "owner", "role", "models", "rate_per_s", "burst", "created_at", "ends_at",
    }  # fmt: skip
