"""A query of MongoDB as a source, its documents as JSON lines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec

from heliostat.config import require
from heliostat.data import typed_rows
from heliostat.data.read_once import ReadOnce
from heliostat.data.rows import Member
from heliostat.data.typed_rows import JsonRows
from heliostat.errors import ConfigError, Unavailable

PASSWORD = "MONGODB_PASSWORD"  # noqa: S105 - the variable's name
"""Variable of the environment, of the Ray workers too, that holds the password."""


@dataclass(frozen=True, kw_only=True)
class MongoQuery(ReadOnce):
    """Documents of a collection, read by one cursor.

    A cursor is no snapshot: a document that is written while it is read may come or not. Object
    ids and numbers that JSON has not become text, moments ISO 8601.
    """

    url: str
    """``mongodb://user@host:port/database``, without a password: it is in `PASSWORD`."""

    collection: str

    where: str = "{}"
    """MongoDB's filter as extended JSON: a moment is ``{"$date": "2026-01-01T00:00:00Z"}``."""

    chunk_rows: int = 20_000

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        require(
            parts.scheme in ("mongodb", "mongodb+srv"), "source.url", parts.scheme,
            "must be a mongodb:// URL",
        )  # fmt: skip
        if parts.password is not None:
            raise ConfigError(
                "source.url", self.url.replace(f":{parts.password}@", ":***@"),
                "must hold no password", next_step=f"Set {PASSWORD} instead",
            )  # fmt: skip
        require(bool(parts.path.strip("/")), "source.url", self.url, "must name the database")
        require(bool(self.collection), "source.collection", self.collection, "must be named")
        require(self.chunk_rows > 0, "source.chunk_rows", self.chunk_rows, "must be above 0")
        try:
            given = json.loads(self.where)
        except ValueError:
            given = None
        require(isinstance(given, dict), "source.where", self.where, "must be a JSON object")

    def plan(self) -> list[Member]:
        """Ask for one document.

        Raises:
            ConfigError: The filter cannot be answered.
            Unavailable: No server answers, or it refuses the user.
        """
        for _ in self._documents(limit=1):
            pass
        path = f"{self.url}/{self.collection}"
        return [Member(path=path, header=None, size_bytes=0, first_line=0)]

    def read_chunks(self, member: Member, first: int) -> Iterator[tuple[int, bytes]]:  # noqa: ARG002
        """Yield the documents in chunks; memory holds one."""
        number, lines = first, []
        for document in self._documents(limit=0):
            lines.append(msgspec.json.encode(_plain(document), enc_hook=str))
            if len(lines) == self.chunk_rows:
                yield number, b"\n".join(lines) + b"\n"
                number, lines = number + 1, []
        if lines:
            yield number, b"\n".join(lines) + b"\n"

    def parse(self, raw: bytes, member: Member) -> JsonRows:  # noqa: ARG002 - objects say it
        """Take documents apart."""
        return typed_rows.parse_json(raw, ())

    def _documents(self, *, limit: int) -> Iterator[dict[str, Any]]:
        import pymongo
        from bson import json_util
        from pymongo import errors

        password = os.environ.get(PASSWORD)
        try:
            settings: dict[str, Any] = {"password": password} if password else {}
            client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
                self.url, serverSelectionTimeoutMS=10_000, connectTimeoutMS=10_000, tz_aware=True,
                **settings,
            )  # fmt: skip
            with client:
                found = client.get_default_database()[self.collection]
                yield from found.find(json_util.loads(self.where), limit=limit, batch_size=1_000)
        except (errors.ConnectionFailure, errors.ConfigurationError) as error:
            # The client's words go on for lines about every server that it knows.
            raise Unavailable(self.url, str(error).split(",", maxsplit=1)[0][:200]) from None
        except errors.OperationFailure as error:
            if error.code in (13, 18):
                raise Unavailable(self.url, "refuses the user or the password") from None
            raise ConfigError(
                "source.where", self.where, "must be answered by the database",
                breaks=str(error.details.get("errmsg", "") if error.details else "")[:200],
            ) from None  # fmt: skip


def _plain(value: Any) -> Any:
    """Values that JSON has, or their text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return value
