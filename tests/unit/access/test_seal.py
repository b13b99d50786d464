"""Seals between the parts of one platform."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from heliostat.access import seal
from heliostat.errors import ConfigError

KEY = bytes(range(32))


class At:
    """A clock that stands where it is put."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def test_a_seal_opens_for_the_same_request_only() -> None:
    """Another id, epoch, body or key is refused."""
    ours = seal.Seal(KEY)
    text = ours.sign("r1", 7, b"body")

    assert ours.check(text, "r1", 7, b"body")
    assert not ours.check(text, "r2", 7, b"body")
    assert not ours.check(text, "r1", 8, b"body")
    assert not ours.check(text, "r1", 7, b"bodY")
    assert not seal.Seal(bytes(32)).check(text, "r1", 7, b"body")


def test_parts_of_the_request_cannot_be_moved_into_each_other() -> None:
    """The end of the id is not the beginning of the body."""
    ours = seal.Seal(KEY)

    assert not ours.check(ours.sign("ab", 1, b"c"), "a", 1, b"bc")


def test_a_seal_ends_after_its_time() -> None:
    """Ten seconds by default, in both directions."""
    clock = At(1_000.0)
    ours = seal.Seal(KEY, clock=clock)
    text = ours.sign("r", 1, b"")

    verdicts = []
    for now in (990.0, 989.9, 1_010.0, 1_010.1):
        clock.now = now
        verdicts.append(ours.check(text, "r", 1, b""))

    assert verdicts == [True, False, True, False]


@pytest.mark.parametrize(
    "text",
    ["", "1", "1..", "2.1000.ab", "1.x.ab", "1.-5.ab", "1.\u0661.ab", "1." + "9" * 99, "1.1.\xff"],
)
def test_a_malformed_seal_is_refused_without_an_error(text: str) -> None:
    """Whatever a client writes into the header."""
    assert not seal.Seal(KEY).check(text, "r", 1, b"")


def test_the_key_is_made_once_and_private(tmp_path: Path) -> None:
    """Two processes that load it understand each other; others cannot read it."""
    path = tmp_path / "keys" / "gateway.key"
    first, second = seal.load_or_create(path), seal.load_or_create(path)

    assert second.check(first.sign("r", 1, b"x"), "r", 1, b"x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """The message names the command that mends it."""
    path = tmp_path / "gateway.key"
    path.write_bytes(KEY)
    path.chmod(0o644)

    with pytest.raises(ConfigError) as caught:
        seal.load_or_create(path)

    assert str(caught.value) == (
        f"{path} = 'mode 644': must not be readable by group or others. chmod 600 '{path}'"
    )


def test_a_short_key_is_refused_and_not_shown() -> None:
    """Only its length is said."""
    with pytest.raises(ConfigError) as caught:
        seal.Seal(b"secret")

    assert str(caught.value) == "seal key = '6 bytes': must have at least 32"
