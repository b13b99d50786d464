from __future__ import annotations

from pathlib import Path

import pytest

from heliostat.errors import ConfigError
from heliostat.stack import auth


def test_unset_makes_a_private_token_once(tmp_path: Path) -> None:
    """Nothing set: a token of 64 digits, mode 0600, under our keys; used again afterwards."""
    keys = tmp_path / "keys"
    found = auth.resolve({}, keys)
    path = keys / "ray_token"
    assert found == {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}
    assert path.stat().st_mode & 0o777 == 0o600
    token = auth.token(found, {})
    assert token is not None
    assert len(token) == 64
    assert auth.token(auth.resolve({}, keys), {}) == token


def test_a_token_of_the_users_is_used_and_ours_is_not_made(tmp_path: Path) -> None:
    """By path, by value or in Ray's own place: the user's token wins, and is not copied."""
    given = tmp_path / "given"
    given.write_text("secret\n")
    home = tmp_path / "user"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text("rays")
    keys = tmp_path / "keys"
    by_path = auth.resolve({"RAY_AUTH_TOKEN_PATH": str(given)}, keys)
    by_value = auth.resolve({"RAY_AUTH_TOKEN": "abc"}, keys)
    by_place = auth.resolve({"HOME": str(home)}, keys)
    assert auth.token(by_path, {}) == "secret"
    assert by_value == {"RAY_AUTH_MODE": "token"}
    assert auth.token(by_value, {"RAY_AUTH_TOKEN": "abc"}) == "abc"
    assert auth.token(by_place, {}) == "rays"
    assert not keys.exists()


def test_disabled_stays_disabled(tmp_path: Path) -> None:
    """Switched off by the user: no token is made and none is sent."""
    found = auth.resolve({"RAY_AUTH_MODE": "disabled"}, tmp_path / "keys")
    assert found == {"RAY_AUTH_MODE": "disabled"}
    assert auth.token(found, {"RAY_AUTH_TOKEN": "x"}) is None
    assert not (tmp_path / "keys").exists()


def test_no_home_folder_is_needed(tmp_path: Path) -> None:
    """A HOME that is missing or empty is no obstacle."""
    for environ in ({}, {"HOME": ""}, {"HOME": str(tmp_path / "none")}):
        assert auth.resolve(environ, tmp_path / "keys")["RAY_AUTH_MODE"] == "token"


@pytest.mark.parametrize(
    ("environ", "where"),
    [
        ({"RAY_AUTH_MODE": "off"}, "RAY_AUTH_MODE"),
        ({"RAY_AUTH_TOKEN_PATH": "/nowhere/token"}, "RAY_AUTH_TOKEN_PATH"),
    ],
)
def test_what_cannot_work_is_refused_before_ray_starts(
    tmp_path: Path, environ: dict[str, str], where: str
) -> None:
    """A mode that Ray lacks and a token that is not there are named."""
    with pytest.raises(ConfigError) as caught:
        auth.resolve(environ, tmp_path)
    assert caught.value.where == where


def test_a_token_given_by_value_must_be_given_again(tmp_path: Path) -> None:
    """Values are never stored, so a new shell has to bring the token along."""
    with pytest.raises(ConfigError, match="must be set as it was when the platform started"):
        auth.token({"RAY_AUTH_MODE": "token"}, {})
