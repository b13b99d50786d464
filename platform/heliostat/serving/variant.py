"""The application of one model version on its own: scores full inputs for gateways only."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from heliostat import telemetry
from heliostat.access import seal as access_seal
from heliostat.errors import ConfigError
from heliostat.inference.predictor import Predictor
from heliostat.serving import asgi
from heliostat.serving.forward import is_sealed
from heliostat.serving.refused import Refused
from heliostat.serving.settings import VariantSettings

_THREAD_ROWS = 512


class _Rows(msgspec.Struct, frozen=True):
    columns: dict[str, list[Any]]


_decode = msgspec.json.Decoder(_Rows).decode


class VariantApp:
    """Raw ASGI: ``POST .../infer`` and ``.../score`` for gateways, ``GET .../ready`` for all.

    Both POST routes do the same; their names tell in logs and metrics whether a user waits.
    """

    def __init__(self, settings: VariantSettings) -> None:
        self._settings = settings
        self._seal = access_seal.load_or_create(settings.layout.keys / "gateway.key")
        self._predictor: Predictor | None = None

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await asgi.lifespan(receive, send, self.start, self.stop)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})

    async def start(self) -> None:
        """Verify and load the version; the replica does not come up without it."""
        settings = self._settings
        self._predictor = await asyncio.to_thread(
            Predictor.load,
            Path(settings.package_path),
            settings.layout.keys,
            digest=settings.package_digest,
        )
        telemetry.event("variant.ready", model=settings.model, version=settings.version)

    async def stop(self) -> None:
        """Let go of the model."""
        self._predictor = None

    async def _http(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        try:
            fields = asgi.headers(scope)
            action = scope["path"].rsplit("/", 1)[-1]
            if action == "ready":
                await self._ready(send)
            elif action in ("infer", "score") and scope["method"] == "POST":
                body = await asgi.read_body(
                    receive,
                    fields,
                    max_bytes=self._settings.max_body_bytes,
                    timeout_s=self._settings.body_timeout_s,
                )
                if not is_sealed(self._seal, fields, body):
                    raise Refused(403, "only a gateway of this platform may ask a variant")
                await asgi.send_json(send, 200, await self._score(body))
            else:
                raise Refused(404, "no such path")
        except Refused as refused:
            await asgi.send_refusal(send, refused)
        except asgi.Disconnected:
            return
        except Exception as error:  # noqa: BLE001
            telemetry.event("variant.failed", problem=repr(error)[:300])
            await asgi.send_refusal(send, Refused(500, "internal error; see the variant's log"))

    async def _ready(self, send: asgi.Send) -> None:
        settings = self._settings
        ready = self._predictor is not None
        body = {"model": settings.model, "version": settings.version, "ready": ready}
        await asgi.send_json(send, 200 if ready else 503, asgi.encode(body))

    async def _score(self, body: bytes) -> bytes:
        if self._predictor is None:
            raise Refused(503, "the version is not loaded yet", retry_after_s=1)
        try:
            columns: Mapping[str, list[Any]] = _decode(body).columns
            if columns and len(next(iter(columns.values()))) >= _THREAD_ROWS:
                scores = await asyncio.to_thread(self._predictor.predict, columns)
            else:
                scores = self._predictor.predict(columns)
        except (msgspec.MsgspecError, ConfigError) as error:
            raise Refused(400, str(error)) from error
        return asgi.encode({"scores": scores.tolist()})
