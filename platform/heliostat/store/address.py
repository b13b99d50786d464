"""Where a platform keeps its state, if not in a file of its state folder."""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from heliostat.config import require

STATE_URL = "HELIOSTAT_STATE_URL"
STATE_PASSWORD = "HELIOSTAT_STATE_PASSWORD"  # noqa: S105 - a variable's name


def state_url(environment: Mapping[str, str]) -> str | None:
    """Give the state database's URL out of ``HELIOSTAT_STATE_URL``; None where that is not set.

    The password may come by itself in ``HELIOSTAT_STATE_PASSWORD``: out of a secret store, with
    any character, and never in what is committed or printed.

    Raises:
        ConfigError: It is no URL that SQLAlchemy reads.

    >>> state_url({"HELIOSTAT_STATE_URL": "postgresql+psycopg://a@db/b",
    ...            "HELIOSTAT_STATE_PASSWORD": "p@ss/word"})
    'postgresql+psycopg://a:p%40ss%2Fword@db/b'
    """
    text = environment.get(STATE_URL)
    if not text:
        return None
    try:
        url = sa.make_url(text)
    except sa.exc.ArgumentError:
        url = None
    require(url is not None, STATE_URL, "...", "must be an SQLAlchemy URL",
            breaks="as postgresql+psycopg://user@host:5432/database")  # fmt: skip
    assert url is not None
    if password := environment.get(STATE_PASSWORD):
        url = url.set(password=password)
    return url.render_as_string(hide_password=False)


def is_one_file(state: object) -> bool:
    """Say whether a state database is an SQLite file, which processes of one machine may share."""
    text = str(state)
    return "://" not in text or sa.make_url(text).get_backend_name() == "sqlite"
