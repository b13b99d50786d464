"""The little of HTTP that our raw ASGI applications share: their entry, bodies, JSON answers."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

import msgspec

from heliostat import telemetry
from heliostat.serving.refused import Refused

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

JSON = (b"content-type", b"application/json")
BINARY = (b"content-type", b"application/octet-stream")
_MAX_HEADERS = 100
_GZIP_WBITS = zlib.MAX_WBITS | 16
_MAX_HEADER_BYTES = 32 << 10

encode = msgspec.json.Encoder().encode


class Disconnected(Exception):
    """The client went away before it had sent its request."""


def headers(scope: Scope) -> dict[bytes, bytes]:
    """Return the headers by lower-case name; the first of a repeated one counts.

    Raises:
        Refused: 431; there are too many, or they are too large together.
    """
    pairs: Sequence[tuple[bytes, bytes]] = scope["headers"]
    if len(pairs) > _MAX_HEADERS:
        raise Refused(431, f"headers = {len(pairs)}: at most {_MAX_HEADERS}")
    size = 0
    found: dict[bytes, bytes] = {}
    for name, value in pairs:
        size += len(name) + len(value)
        found.setdefault(name, value)
    if size > _MAX_HEADER_BYTES:
        raise Refused(431, f"headers = {size} bytes: at most {_MAX_HEADER_BYTES}")
    return found


async def read_body(
    receive: Receive, fields: Mapping[bytes, bytes], *, max_bytes: int, timeout_s: float
) -> bytes:
    """Read the whole request body.

    Raises:
        Refused: 413 if it is longer than `max_bytes`; 408 if it is not complete in time;
            400 if the declared length is no number.
        Disconnected: The client went away.
    """
    _check_length(fields, max_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            return await _whole(receive, max_bytes)
    except TimeoutError as error:
        raise _late(timeout_s) from error


class Bodies:
    """Reads many bodies; as `read_body`, with one timer for all that wait instead of one each.

    A body that is late is noticed up to a quarter of the time limit later.
    """

    def __init__(self, *, max_bytes: int, timeout_s: float) -> None:
        """Take the limits."""
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._due: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._ticks_in: asyncio.AbstractEventLoop | None = None
        """The loop that will look for late ones; None while nobody needs it."""

    async def read(self, receive: Receive, fields: Mapping[bytes, bytes]) -> bytes:
        """Read one; call it in a task, as every ASGI server does.

        Raises:
            Refused: As for `read_body`.
            Disconnected: The client went away.
        """
        _check_length(fields, self._max_bytes)
        task = asyncio.current_task()
        assert task is not None
        loop = task.get_loop()
        self._due[task] = loop.time() + self._timeout_s
        if self._ticks_in is not loop:
            self._ticks_in = loop
            loop.call_later(self._timeout_s / 4, self._tick)
        try:
            return await _whole(receive, self._max_bytes)
        except asyncio.CancelledError as error:
            if task not in self._late or task.uncancel() > 0:
                raise
            raise _late(self._timeout_s) from error
        finally:
            del self._due[task]
            self._late.discard(task)

    def _tick(self) -> None:
        loop, self._ticks_in = self._ticks_in, None
        assert loop is not None
        now = loop.time()
        for task, due in self._due.items():
            if due <= now and task not in self._late:
                self._late.add(task)
                task.cancel()
        if self._due:
            self._ticks_in = loop
            loop.call_later(self._timeout_s / 4, self._tick)


def _check_length(fields: Mapping[bytes, bytes], max_bytes: int) -> None:
    declared = fields.get(b"content-length")
    if declared is not None:
        if not declared.isdigit() or len(declared) > 18:
            raise Refused(400, "header content-length: must be a number of bytes")
        if int(declared) > max_bytes:
            raise Refused(413, f"body = {int(declared)} bytes: at most {max_bytes}")


def _late(timeout_s: float) -> Refused:
    return Refused(408, f"body: must be complete within {timeout_s:g} s")


async def _whole(receive: Receive, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size, more = 0, True
    while more and size <= max_bytes:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        body: bytes = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(body)
        if not more and not parts and size <= max_bytes:
            return body
        parts.append(body)
    if size > max_bytes:
        raise Refused(413, f"body: at most {max_bytes} bytes")
    return b"".join(parts)


def decompress(body: bytes, fields: Mapping[bytes, bytes], *, max_bytes: int) -> bytes:
    """Undo the body's content encoding.

    Raises:
        Refused: 400 if it is broken; 413 if it unpacks to more than `max_bytes`; 415 for
            another encoding than gzip and deflate.
    """
    encoding = fields.get(b"content-encoding", b"identity").strip().lower()
    if encoding in (b"identity", b""):
        return body
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        raise Refused(415, "header content-encoding: must be gzip or deflate")
    unpacker = zlib.decompressobj(zlib.MAX_WBITS if encoding == b"deflate" else _GZIP_WBITS)
    try:
        plain = unpacker.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise Refused(400, f"body: must be {encoding.decode()}; {error}") from error
    if len(plain) > max_bytes:
        raise Refused(413, f"body: at most {max_bytes} bytes when unpacked")
    if not unpacker.eof or unpacker.unused_data:
        raise Refused(400, f"body: must be one whole {encoding.decode()} stream")
    return plain


class Application:
    """The entry of a raw ASGI application: every scope is answered, no error gets out.

    Subclasses say how to `start`, `stop` and `respond`.
    """

    name = "application"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "http":
            try:
                await self.respond(scope, receive, send)
            except Refused as refused:
                await send_refusal(send, refused)
            except Disconnected:
                return
            except Exception as error:  # noqa: BLE001
                telemetry.event(f"{self.name}.failed", problem=repr(error)[:300])
                await send_refusal(send, Refused(500, f"internal error; see the {self.name}'s log"))
        elif scope["type"] == "lifespan":
            await lifespan(receive, send, self.start, self.stop)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})

    async def start(self) -> None:
        """Make ready; an error keeps the replica from coming up."""

    async def stop(self) -> None:
        """Let go of everything."""

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            Refused: It gets no other answer than this.
        """
        raise NotImplementedError


async def answer(
    send: Send, status: int, body: bytes, fields: Sequence[tuple[bytes, bytes]]
) -> None:
    """Send a whole answer with these headers and its length."""
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [length, *fields]})
    await send({"type": "http.response.body", "body": body})


async def send_json(
    send: Send, status: int, body: bytes, extra: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    """Send a whole answer that is JSON."""
    await answer(send, status, body, [JSON, *extra])


async def send_refusal(
    send: Send, refused: Refused, extra: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    """Send the refusal as ``{"error": message}``."""
    if refused.retry_after_s is not None:
        extra = [*extra, (b"retry-after", b"%d" % refused.retry_after_s)]
    if refused.fields:
        extra = [*extra, *refused.fields]
    if refused.status in (408, 413):
        # What is left of the body is not read, so the connection cannot be used again.
        extra = [*extra, (b"connection", b"close")]
    await send_json(send, refused.status, encode({"error": refused.message}), extra)


async def lifespan(
    receive: Receive,
    send: Send,
    start: Callable[[], Awaitable[None]],
    stop: Callable[[], Awaitable[None]],
) -> None:
    """Answer the lifespan scope: start once, stop at the end."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            try:
                await start()
            except Exception as error:
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                raise
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await stop()
            await send({"type": "lifespan.shutdown.complete"})
            return
