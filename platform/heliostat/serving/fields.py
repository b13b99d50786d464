"""What a request's headers tell the gateway: ids, the unit, a time, a wanted version."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime

from heliostat.serving.refused import Refused, bad

MAX_UNIT_CHARS = 256
MAX_ID_CHARS = 128

Fields = Mapping[bytes, bytes]

REQUEST_ID = b"x-heliostat-request-id"
UNIT = b"x-heliostat-unit"
AT = b"x-heliostat-at"
VERSION = b"x-heliostat-version"


class RequestIds:
    """Gives ids that are unique over all processes; they are names, not secrets."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(8)
        self._numbers = itertools.count()

    def __call__(self) -> str:
        """Give the next one."""
        return f"{self._prefix}{next(self._numbers):012x}"


def request_id(fields: Fields) -> str | None:
    """Return the client's own id of the request, if it sent one.

    Raises:
        Refused: 400; it is too long or not printable ASCII.
    """
    raw = fields.get(REQUEST_ID)
    return (
        None if raw is None else as_id("header x-heliostat-request-id", _decoded(REQUEST_ID, raw))
    )


def as_id(where: str, text: str) -> str | None:
    """Check an id that we write into headers; None for an empty one.

    Raises:
        Refused: 400; it is too long or not printable ASCII.
    """
    if not text.isascii():
        raise bad(where, text, "must be ASCII")
    return _checked(where, text, MAX_ID_CHARS)


def unit(fields: Fields) -> str | None:
    """Return who is to be assigned to a variant, if the client says so.

    The text counts as it is: two spellings that look alike are two units.

    Raises:
        Refused: 400; it is too long or not printable.
    """
    raw = fields.get(UNIT)
    if raw is None:
        return None
    return _checked("header x-heliostat-unit", _decoded(UNIT, raw), MAX_UNIT_CHARS)


def wanted_version(fields: Fields, of_path: str | None) -> str | None:
    """Return the version that the client wants instead of its assigned one.

    Raises:
        Refused: 400; the header names another version than the path.
    """
    raw = fields.get(VERSION)
    named = None if raw is None else _decoded(VERSION, raw)[:64] or None
    if named is not None and of_path not in (None, named):
        raise bad("header x-heliostat-version", named, f"the path asks for version {of_path[:64]}")
    return named or of_path


def at(fields: Fields) -> datetime | None:
    """Return the moment as of which ages of features count.

    Raises:
        Refused: 400; it is no ISO 8601 time.
    """
    raw = fields.get(AT)
    if raw is None:
        return None
    text = _checked("header x-heliostat-at", _decoded(AT, raw), 64) or ""
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise bad("header x-heliostat-at", text, "must be an ISO 8601 time") from error


def _decoded(name: bytes, raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(400, f"header {name.decode()}: must be UTF-8") from error


def _checked(where: str, text: str, max_chars: int) -> str | None:
    if len(text) > max_chars or not text.isprintable():
        raise bad(where, text, f"must be at most {max_chars} printable characters")
    return text or None
