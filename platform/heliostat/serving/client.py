"""Ask the gateway for predictions over HTTP, once per request and without retries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec

if TYPE_CHECKING:
    import aiohttp

Key = str | int | float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What became of one request at its first and only attempt."""

    request_id: str

    status: int | None
    """HTTP status; None if no answer came in time or the connection failed."""

    scores: tuple[float, ...]
    """Values of the first output; empty unless the status is 200."""

    version: str | None
    """Version that answered."""

    variant: str | None
    """Role of the variant whose slot the request fell into."""

    epoch: int | None
    fallback: bool
    latency_s: float

    problem: str | None = None
    """What went wrong, in words; None for status 200."""


class InferenceClient:
    """One connection pool to one gateway; use it as an async context manager."""

    def __init__(self, endpoint: str, *, deadline_s: float) -> None:
        """Prepare; nothing is opened before the context is entered.

        Args:
            endpoint: Base URL, such as ``http://127.0.0.1:8000``.
            deadline_s: Time after which a request is given up and has failed.
        """
        self._endpoint = endpoint.rstrip("/")
        self._deadline_s = deadline_s
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        import aiohttp

        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._deadline_s),
            connector=aiohttp.TCPConnector(limit=0),
            trust_env=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def infer(
        self,
        model: str,
        values: Mapping[str, Key],
        *,
        request_id: str,
        unit: str,
        at: datetime | None = None,
    ) -> Answer:
        """Ask for one row, by entity keys or with all inputs.

        Args:
            model: Registered model.
            values: Every entity key of the model's feature service, and the gateway reads its
                features online; or every input. None where it is unknown or missing.
            request_id: Comes back with the answer, and names it for a late label.
            unit: Who is assigned to a variant; the same unit keeps its variant.
            at: Moment as of which ages of features are counted; None for the gateway's clock.
        """
        import aiohttp

        if self._session is None:
            raise RuntimeError("enter the client's context first")
        headers = {
            "content-type": "application/json",
            "x-heliostat-request-id": request_id,
            "x-heliostat-unit": unit,
        }
        if at is not None:
            headers["x-heliostat-at"] = at.isoformat()
        began = time.monotonic()
        try:
            async with self._session.post(
                f"{self._endpoint}/v2/models/{model}/infer",
                data=msgspec.json.encode({"inputs": [_tensor(*item) for item in values.items()]}),
                headers=headers,
            ) as response:
                body = await response.read()
                return _answer(request_id, response, body, time.monotonic() - began)
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:  # noqa: UP041 - 3.10 differs
            return Answer(
                request_id=request_id, status=None, scores=(), version=None, variant=None,
                epoch=None, fallback=False, latency_s=time.monotonic() - began,
                problem=f"{type(error).__name__}: {error}",
            )  # fmt: skip


def _tensor(name: str, value: Key) -> dict[str, object]:
    return {"name": name, "shape": [1], "datatype": datatype(value), "data": [value]}


def datatype(value: Key) -> str:
    """Name the protocol's type for one value.

    >>> datatype(3), datatype(0.5), datatype("x")
    ('INT64', 'FP64', 'BYTES')
    """
    if isinstance(value, int):
        return "INT64"
    return "FP64" if isinstance(value, float) else "BYTES"


def _answer(
    request_id: str, response: aiohttp.ClientResponse, body: bytes, latency_s: float
) -> Answer:
    ok = response.status == 200
    epoch = response.headers.get("x-heliostat-epoch")
    return Answer(
        request_id=request_id,
        status=response.status,
        scores=tuple(msgspec.json.decode(body)["outputs"][0]["data"]) if ok else (),
        version=response.headers.get("x-heliostat-version"),
        variant=response.headers.get("x-heliostat-variant"),
        epoch=int(epoch) if epoch else None,
        fallback=response.headers.get("x-heliostat-fallback") == "1",
        latency_s=latency_s,
        problem=None if ok else body[:300].decode(errors="replace"),
    )
