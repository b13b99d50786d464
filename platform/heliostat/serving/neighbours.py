"""Nearest neighbours over HTTP: the raw ASGI application that searches vector indexes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from heliostat.data import vectors
from heliostat.errors import ConfigError
from heliostat.serving.admission import Door
from heliostat.serving.asgi import (
    Application,
    Receive,
    Scope,
    Send,
    decompress,
    encode,
    headers,
    read_body,
    send_json,
)
from heliostat.serving.refused import Refused
from heliostat.serving.routes import Match, Route

MAX_BODY_BYTES = 1 << 20
MAX_ROWS = 1_000
_LOOK_EVERY_S = 1.0

_ROUTE = Route(
    action="neighbours", method="POST", path="/vectors/{table}", role="predict",
    summary="Rows of a table whose vectors are nearest", predicts=False,
)  # fmt: skip


class Question(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a client sends; one of `vector` and `like`."""

    vector: list[float] | None = None
    like: dict[str, str | int | float] | None = None
    """Columns and values that name one row: its own vector is searched for."""
    num_rows: int = 10


class Neighbours(Application):
    """Answers ``POST /vectors/<table>`` with rows and distances, nearest first.

    The same keys and roles as at the gateway: it takes the role ``predict``.
    """

    name = "neighbours"

    def __init__(self, folder: Path, door: Door, *, prefix: str = "/vectors") -> None:
        """Search the indexes in `folder`; `prefix` is where the application is mounted."""
        self._folder = folder
        self._door = door
        self._prefix = prefix
        self._looking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the keys before the first request, and then each second."""
        await asyncio.to_thread(self._door.look)
        self._looking = asyncio.create_task(self._look())

    async def stop(self) -> None:
        """End the reading of keys."""
        if self._looking is not None:
            self._looking.cancel()

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one search."""
        table = scope["path"].removeprefix(self._prefix).strip("/")
        if not table:
            raise Refused(404, f"no such path; POST {self._prefix}/<table>")
        if scope["method"] != "POST":
            raise Refused(405, f"method = {scope['method']}: must be POST")
        fields = headers(scope)
        self._door.admit(Match(route=_ROUTE, model=None, version=None), fields)
        body = await read_body(receive, fields, max_bytes=MAX_BODY_BYTES, timeout_s=10.0)
        question = _question(decompress(body, fields, max_bytes=MAX_BODY_BYTES))
        found = await asyncio.to_thread(self._refusing, lambda: self._search(table, question))
        await send_json(send, 200, encode(found))

    def _search(self, table: str, question: Question) -> dict[str, Any]:
        index = vectors.current(self._folder, table)
        vector = question.vector
        if vector is None:
            assert question.like is not None
            vector = vectors.vector_of(self._folder, table, question.like)
        rows = vectors.search(self._folder, table, vector, num_rows=question.num_rows)
        return {"table": table, "table_version": index.version, "rows": msgspec.to_builtins(rows)}

    @staticmethod
    def _refusing(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return ask()
        except ConfigError as error:
            missing = str(error).startswith(("vector index", "table name"))
            raise Refused(404 if missing else 400, str(error)) from error

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            await asyncio.to_thread(self._door.look)


def _question(body: bytes) -> Question:
    try:
        question = msgspec.json.decode(body, type=Question)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(400, f"body: must be a question; {error}") from error
    if (question.vector is None) == (question.like is None):
        raise Refused(400, "body: must have one of vector and like")
    if not 1 <= question.num_rows <= MAX_ROWS:
        raise Refused(400, f"num_rows = {question.num_rows}: must be 1 to {MAX_ROWS}")
    return question
