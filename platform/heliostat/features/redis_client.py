"""A small Redis client: many commands, one round trip; blocking, and for an event loop.

Lost or silent servers are told by `Unavailable`; nothing is tried again here, since who asks
knows whether there is time for it. One server by URL: no Cluster, no Sentinel.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import urllib.parse
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import hiredis

from heliostat.config import require
from heliostat.errors import Unavailable

_pack: Callable[[tuple[bytes, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]

_CHUNK_BYTES = 1 << 18
_CONNECT_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RedisAddress:
    """Where a server listens, and how to be let in."""

    host: str
    port: int = 6379
    database: int = 0
    user: str = ""
    password: str = ""
    tls: bool = False

    @staticmethod
    def parse(url: str) -> RedisAddress:
        """Read ``redis://[user:password@]host[:port][/database]``, or ``rediss://`` for TLS.

        Raises:
            ConfigError: It is no such URL.
        """
        parts = urllib.parse.urlsplit(url)
        shown = url if parts.password is None else f"{parts.scheme}://...@{parts.hostname}"
        require(
            parts.scheme in ("redis", "rediss") and bool(parts.hostname), "redis URL", shown,
            "must read redis://host:port/database, or rediss:// for TLS",
        )  # fmt: skip
        database = parts.path.strip("/")
        require(
            not database or database.isdigit(), "redis URL", shown,
            "must end with the number of a database, or without one",
        )  # fmt: skip
        return RedisAddress(
            host=str(parts.hostname),
            port=parts.port or 6379,
            database=int(database or 0),
            user=urllib.parse.unquote(parts.username or ""),
            password=urllib.parse.unquote(parts.password or ""),
            tls=parts.scheme == "rediss",
        )

    def __str__(self) -> str:
        return f"{'rediss' if self.tls else 'redis'}://{self.host}:{self.port}/{self.database}"

    def greeting(self) -> list[tuple[bytes, ...]]:
        """The commands with which a connection begins."""
        found: list[tuple[bytes, ...]] = []
        if self.password:
            names = (self.user.encode(),) if self.user else ()
            found.append((b"AUTH", *names, self.password.encode()))
        if self.database:
            found.append((b"SELECT", b"%d" % self.database))
        return found


def packed(commands: Sequence[Sequence[bytes]]) -> bytes:
    """Put commands into the bytes that a server reads."""
    if len(commands) == 1:
        return _pack(tuple(commands[0]))
    return b"".join([_pack(tuple(command)) for command in commands])


class RedisConnection:
    """One blocking connection; opened by the first call, and again after a failure.

    For one thread at a time.
    """

    def __init__(self, address: RedisAddress, *, timeout_s: float) -> None:
        """Take where to; connects to nothing yet.

        Args:
            address: The server.
            timeout_s: For how long no byte may come.
        """
        self.address = address
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None
        self._reader = hiredis.Reader()

    def call(self, commands: Sequence[Sequence[bytes]]) -> list[Any]:
        """Send commands and wait for all replies.

        Raises:
            Unavailable: There is no server, or it is silent, or it refuses a command.
        """
        return self.exchange(packed(commands), len(commands))

    def exchange(self, request: bytes, num_replies: int) -> list[Any]:
        """Send packed commands and wait for their replies; see `call`."""
        try:
            line = self._socket or self._connect()
            line.sendall(request)
            return self._replies(line, num_replies)
        except (OSError, hiredis.HiredisError) as error:
            self.close()
            raise unavailable(self.address, error) from error

    def stream(self, batches: Iterable[Sequence[Sequence[bytes]]]) -> Iterator[list[Any]]:
        """Send batch after batch, each before the replies to the one before it are read.

        So that who makes the next one and the server work at the same time.

        Yields:
            The replies to a batch, in turn.

        Raises:
            Unavailable: As for `call`; of the batches on their way any may have been done.
        """
        sent: deque[int] = deque()
        try:
            line = self._socket or self._connect()
            for commands in batches:
                line.sendall(packed(commands))
                sent.append(len(commands))
                if len(sent) > 1:
                    yield self._replies(line, sent.popleft())
            while sent:
                yield self._replies(line, sent.popleft())
        except (OSError, hiredis.HiredisError) as error:
            self.close()
            raise unavailable(self.address, error) from error
        finally:
            if sent:
                # Replies that are on their way belong to nobody.
                self.close()

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._reader = hiredis.Reader()

    def _connect(self) -> socket.socket:
        where = (self.address.host, self.address.port)
        line = socket.create_connection(where, timeout=min(_CONNECT_S, self._timeout_s))
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.settimeout(self._timeout_s)
        if self.address.tls:
            line = ssl.create_default_context().wrap_socket(line, server_hostname=where[0])
        self._socket = line
        greeting = self.address.greeting()
        if greeting:
            line.sendall(packed(greeting))
            self._replies(line, len(greeting))
        return line

    def _replies(self, line: socket.socket, number: int) -> list[Any]:
        reader, found = self._reader, []
        while True:
            reply = reader.gets()
            if reply is not False:
                if isinstance(reply, hiredis.ReplyError):
                    # The replies that follow belong to nobody.
                    raise reply
                found.append(reply)
                if len(found) == number:
                    return found
                continue
            data = line.recv(_CHUNK_BYTES)
            if not data:
                raise ConnectionError("the server closed the connection")
            reader.feed(data)


class RedisLine(asyncio.Protocol):
    """One connection of an event loop; all requests share it, each waits for its own reply."""

    def __init__(self, address: RedisAddress) -> None:
        self.address = address
        self._reader = hiredis.Reader()
        self._waiting: deque[tuple[asyncio.Future[list[Any]], int]] = deque()
        self._found: list[Any] = []
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []

    @staticmethod
    async def open(address: RedisAddress) -> RedisLine:
        """Connect and greet.

        Raises:
            Unavailable: There is no server, or it does not let us in.
        """
        loop = asyncio.get_running_loop()
        context = ssl.create_default_context() if address.tls else None
        try:
            _, line = await loop.create_connection(
                lambda: RedisLine(address), address.host, address.port, ssl=context
            )
        except OSError as error:
            raise unavailable(address, error) from error
        greeting = address.greeting()
        if greeting:
            await line.exchange(packed(greeting), len(greeting))
        return line

    @property
    def is_open(self) -> bool:
        """Whether requests can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def exchange(self, request: bytes, num_replies: int) -> asyncio.Future[list[Any]]:
        """Send packed commands; the answer comes as `Unavailable` if the connection is lost.

        Who no longer waits cancels it: the replies are then read and forgotten.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Any]] = loop.create_future()
        if not self.is_open:
            answer.set_exception(unavailable(self.address, "the connection is closed"))
            return answer
        self._waiting.append((answer, num_replies))
        if not self._unsent:
            # What others ask in the same turn of the loop goes out in the same packet.
            loop.call_soon(self._send)
        self._unsent.append(request)
        return answer

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _send(self) -> None:
        data, self._unsent = b"".join(self._unsent), []
        if self.is_open and self._transport is not None:
            self._transport.write(data)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin (called by the loop)."""
        # uvloop's transports, which Serve's replicas have, are of no class of asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Hand replies to who waits for them (called by the loop)."""
        reader = self._reader
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                self._found.append(reply)
                answer, number = self._waiting[0]
                if len(self._found) == number:
                    self._waiting.popleft()
                    found, self._found = self._found, []
                    if not answer.done():
                        _settle(answer, found, self.address)
        except (hiredis.HiredisError, IndexError):
            # What came is no reply to anything: nobody can tell whose the next one is.
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell all who wait (called by the loop)."""
        while self._waiting:
            answer, _ = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(
                    unavailable(self.address, exc or "the server closed the connection")
                )


def _settle(answer: asyncio.Future[list[Any]], found: list[Any], address: RedisAddress) -> None:
    for reply in found:
        if isinstance(reply, hiredis.ReplyError):
            answer.set_exception(unavailable(address, reply))
            return
    answer.set_result(found)


def unavailable(address: RedisAddress, problem: object) -> Unavailable:
    """Say what is wrong with a server."""
    return Unavailable(
        f"online store {address}", str(problem) or type(problem).__name__,
        next_step="Start the server, or correct the URL",
    )  # fmt: skip
