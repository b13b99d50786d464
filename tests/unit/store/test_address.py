"""Where the state database is, out of the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from heliostat.errors import ConfigError
from heliostat.store import address


def test_a_password_of_any_characters_comes_beside_the_url():
    """Out of a secret store, so that no committed file and no command line holds it."""
    url = "postgresql+psycopg://heliostat@db:5432/heliostat"

    assert address.state_url({}) is None
    assert address.state_url({"HELIOSTAT_STATE_URL": url}) == url
    assert (
        address.state_url({"HELIOSTAT_STATE_URL": url, "HELIOSTAT_STATE_PASSWORD": "a@b/c:%"})
        == "postgresql+psycopg://heliostat:a%40b%2Fc%3A%25@db:5432/heliostat"
    )


def test_what_is_no_url_is_told_without_showing_it():
    """It may hold a password."""
    with pytest.raises(
        ConfigError, match=r"HELIOSTAT_STATE_URL = '...': must be an SQLAlchemy URL"
    ):
        address.state_url({"HELIOSTAT_STATE_URL": "no url: secret"})


def test_only_sqlite_is_one_file():
    """A path, and SQLite's own URLs."""
    states = (Path("/a/state.db"), "sqlite:////a/state.db", "postgresql+psycopg://a@b/c")

    assert [address.is_one_file(state) for state in states] == [True, True, False]
