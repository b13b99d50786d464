"""The application of one model version on its own: scores full inputs for gateways only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from heliostat import telemetry
from heliostat.access import seal as access_seal
from heliostat.errors import ConfigError
from heliostat.inference.predictor import Predictor
from heliostat.serving import asgi
from heliostat.serving.batching import Batcher, pays
from heliostat.serving.forward import is_sealed
from heliostat.serving.refused import Refused
from heliostat.serving.settings import VariantSettings

_THREAD_ROWS = 512


class _Rows(msgspec.Struct, frozen=True):
    columns: dict[str, list[Any]]


_decode = msgspec.json.Decoder(_Rows).decode


class VariantApp(asgi.Application):
    """Raw ASGI: ``POST .../infer`` and ``.../score`` for gateways, ``GET .../ready`` for all.

    Both POST routes do the same; their names tell in logs and metrics whether a user waits.
    """

    name = "variant"

    def __init__(self, settings: VariantSettings) -> None:
        self._settings = settings
        self._seal = access_seal.load_or_create(settings.layout.keys / "gateway.key")
        self._predictor: Predictor | None = None
        self._batcher: Batcher | None = None
        self._bodies = asgi.Bodies(
            max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s
        )

    async def start(self) -> None:
        """Verify and load the version; the replica does not come up without it."""
        settings = self._settings
        predictor = await asyncio.to_thread(
            Predictor.load,
            Path(settings.package_path),
            settings.layout.keys,
            digest=settings.package_digest,
        )
        options = predictor.description.serving
        if options.max_batch_rows > 1 and await asyncio.to_thread(pays, predictor):
            self._batcher = Batcher(
                predictor, max_rows=options.max_batch_rows, wait_s=options.batch_wait_s
            )
        self._predictor = predictor
        telemetry.event("variant.ready", model=settings.model, version=settings.version)

    async def stop(self) -> None:
        """Let go of the model."""
        self._predictor = self._batcher = None

    async def respond(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Answer one request."""
        began = time.perf_counter()
        fields = asgi.headers(scope)
        action = scope["path"].rsplit("/", 1)[-1]
        if action == "ready":
            await self._ready(send)
        elif action in ("infer", "score") and scope["method"] == "POST":
            body = await self._bodies.read(receive, fields)
            if not is_sealed(self._seal, fields, body):
                raise Refused(403, "only a gateway of this platform may ask a variant")
            answer = await self._score(body, began)
            await asgi.send_json(send, 200, answer)
        else:
            raise Refused(404, "no such path")

    async def _ready(self, send: asgi.Send) -> None:
        settings = self._settings
        ready = self._predictor is not None
        body = {"model": settings.model, "version": settings.version, "ready": ready}
        await asgi.send_json(send, 200 if ready else 503, asgi.encode(body))

    async def _score(self, body: bytes, began: float) -> bytes:
        if self._predictor is None:
            raise Refused(503, "the version is not loaded yet", retry_after_s=1)
        scores: list[float]
        try:
            columns: Mapping[str, list[Any]] = _decode(body).columns
            num_rows = len(next(iter(columns.values()))) if columns else 0
            if num_rows >= _THREAD_ROWS:
                scores = (await asyncio.to_thread(self._predictor.predict, columns)).tolist()
            elif self._batcher is not None and num_rows:
                scores = await self._batcher.predict(columns, num_rows)
            else:
                scores = self._predictor.predict(columns).tolist()
        except (msgspec.MsgspecError, ConfigError) as error:
            raise Refused(400, str(error)) from error
        own_ms = (time.perf_counter() - began) * 1000
        return asgi.encode({"scores": scores, "own_ms": own_ms})
