"""Carries requests from a gateway to isolated variants and reports to the controller."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from heliostat.access.seal import Seal
from heliostat.errors import HeliostatError

if TYPE_CHECKING:
    import aiohttp

_HOP_WINDOW_S = 10.0

_encode = msgspec.json.Encoder().encode


class VariantFailed(HeliostatError):
    """A variant did not answer well in time; the message says how."""


class Forwarder(Protocol):
    """Sends one POST and returns status and body; raises VariantFailed where there is none."""

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], timeout_s: float
    ) -> tuple[int, bytes]:
        """Send and wait, at most `timeout_s`."""
        ...

    async def close(self) -> None:
        """Give up all connections."""
        ...


class Scores(msgspec.Struct, frozen=True):
    """What a variant answers."""

    scores: list[float]

    own_ms: float | None = None
    """From the request's arrival in the variant to its scores."""


_decode_scores = msgspec.json.Decoder(Scores).decode


class HttpForwarder:
    """Loopback HTTP with kept connections."""

    def __init__(self, *, max_connections: int = 256) -> None:
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], timeout_s: float
    ) -> tuple[int, bytes]:
        """Send; repeats at once if a kept connection turns out to be closed.

        Raises:
            VariantFailed: No answer in time, or no connection.
        """
        import aiohttp

        session = self._open()
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        for attempt in (1, 2):
            try:
                async with session.post(
                    url, data=body, headers=headers, timeout=timeout, allow_redirects=False
                ) as response:
                    return response.status, await response.read()
            except TimeoutError as error:
                raise VariantFailed(f"no answer within {timeout_s * 1000:.0f} ms") from error
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
                # The ingress closes kept connections when it reloads; what we send may be
                # repeated, so a fresh connection is tried once.
                if attempt == 2:
                    raise VariantFailed(f"no connection: {error}") from error
            except aiohttp.ClientError as error:
                raise VariantFailed(f"{type(error).__name__}: {error}") from error
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Close all connections; a later `post` opens new ones."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            self._session = aiohttp.ClientSession(
                # Below the ingress' own limit for idle connections.
                connector=aiohttp.TCPConnector(limit=self._max_connections, keepalive_timeout=5.0),
                auto_decompress=False,
            )
        return self._session


class Hop:
    """What the way to a variant and back costs at least, so that it can be left out.

    A version on trial pays for a hop that it will not pay once it answers in the gateway. The
    least cost of the last seconds is taken off its times: never more, so that waiting in the
    variant's own queue still counts against it.
    """

    __slots__ = ("_ends", "_least", "_least_before")

    def __init__(self) -> None:
        self._least = self._least_before = math.inf
        self._ends = -math.inf

    def least_ms(self, now: float, total_ms: float, own_ms: float) -> float:
        """Note one round trip and return the least cost of a hop lately.

        >>> hop = Hop()
        >>> hop.least_ms(0.0, 5.0, 4.0), hop.least_ms(1.0, 9.0, 4.0)
        (1.0, 1.0)
        """
        if now >= self._ends:
            self._least_before, self._least = self._least, math.inf
            self._ends = now + _HOP_WINDOW_S
        self._least = min(self._least, max(0.0, total_ms - own_ms))
        return min(self._least, self._least_before)


class VariantClient:
    """Asks isolated variants for scores, with our seal on every request."""

    def __init__(self, forwarder: Forwarder, seal: Seal) -> None:
        self._forwarder = forwarder
        self._seal = seal

    async def score(
        self,
        url: str,
        columns: Mapping[str, Sequence[Any]],
        *,
        num_rows: int,
        request_id: str,
        epoch: int,
        timeout_s: float,
        shadow: bool = False,
    ) -> Scores:
        """Score rows in the variant's application.

        Args:
            url: The variant's base URL.
            shadow: Whether no user waits for the answer.

        Raises:
            VariantFailed: Any other outcome than `num_rows` finite scores in time.
        """
        body = _encode({"columns": columns})
        status, answer = await self._forwarder.post(
            f"{url}/{'score' if shadow else 'infer'}",
            body,
            sealed(self._seal, request_id, epoch, body),
            timeout_s,
        )
        if status != 200:
            raise VariantFailed(f"status {status}")
        try:
            found = _decode_scores(answer)
        except msgspec.MsgspecError as error:
            raise VariantFailed(f"answer is malformed: {error}") from error
        if len(found.scores) != num_rows or not all(map(math.isfinite, found.scores)):
            raise VariantFailed("answer must be one finite score per row")
        return found


def sealed(seal: Seal, request_id: str, epoch: int, body: bytes) -> dict[str, str]:
    """Headers of a request that only a part of this platform can have made."""
    return {
        "content-type": "application/json",
        "x-heliostat-request-id": request_id,
        "x-heliostat-epoch": str(epoch),
        "x-heliostat-seal": seal.sign(request_id, epoch, body),
    }


def is_sealed(seal: Seal, fields: Mapping[bytes, bytes], body: bytes) -> bool:
    """Say whether the headers carry a right seal for this body."""
    text = fields.get(b"x-heliostat-seal", b"").decode("latin-1")
    request_id = fields.get(b"x-heliostat-request-id", b"").decode("latin-1")
    epoch = fields.get(b"x-heliostat-epoch", b"")
    return epoch.isdigit() and len(epoch) < 16 and seal.check(text, request_id, int(epoch), body)
