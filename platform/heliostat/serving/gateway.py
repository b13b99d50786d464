"""The gateway: one raw ASGI object that admits, splits, answers and records.

Per request: body -> tensors -> features -> unit -> slot -> variant -> answer. The stable
version answers in this process; what else there is can only make an answer later or
different, never missing.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

from heliostat import __version__, telemetry
from heliostat.access import seal as access_seal
from heliostat.errors import HeliostatError
from heliostat.serving import asgi, binary, protocol
from heliostat.serving.answering import Answer, Answerer
from heliostat.serving.breaker import Breaker
from heliostat.serving.evidence import Gatherer, Outbox
from heliostat.serving.exposures import Spool
from heliostat.serving.following import Follower
from heliostat.serving.forward import Forwarder, VariantClient, sealed
from heliostat.serving.pairs import PairScorer
from heliostat.serving.refused import Refused, bad
from heliostat.serving.settings import GatewaySettings
from heliostat.serving.source import PolicySource
from heliostat.serving.versions import Loader, OpenReader, Row, Snapshot

_METADATA = asgi.encode(
    {"name": "heliostat", "version": __version__, "extensions": ["binary_tensor_data"]}
)
_MAX_NAME_CHARS = 256
_EVIDENCE_TIMEOUT_S = 5.0


class Gateway:
    """Answers the Open Inference Protocol for every model of the policy.

    Everything outside comes in through the constructor, so that it runs without Ray.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        policy_source: PolicySource,
        forwarder: Forwarder,
        open_reader: OpenReader,
        gateway_id: str,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Hold the parts; `start` begins to follow the policy.

        Args:
            clock: Seconds since 1970, for records.
            timer: Seconds from anywhere, for durations.
        """
        home = settings.layout
        self._settings = settings
        self._forwarder = forwarder
        self._clock = clock
        self._timer = timer
        self.policies = Follower(
            policy_source, Loader(home.keys, open_reader), home.root / "policy.json"
        )
        self._seal = access_seal.load_or_create(home.keys / "gateway.key")
        self.gatherer = Gatherer(gateway_id)
        self.outbox = Outbox()
        self.spool = Spool(home.spool / "exposures", gateway_id)
        variants = VariantClient(forwarder, self._seal)
        self.pairs = PairScorer(variants, self.gatherer)
        self._answerer = Answerer(
            variants=variants,
            gatherer=self.gatherer,
            spool=self.spool,
            pairs=self.pairs,
            new_breaker=lambda: Breaker(
                failures=settings.breaker_failures, open_s=settings.breaker_open_s
            ),
            clock=clock,
            timer=timer,
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await asgi.lifespan(receive, send, self.start, self.stop)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})

    async def start(self) -> None:
        """Follow the policy and run the periodic work until `stop`."""
        settings = self._settings
        self._tasks = [
            asyncio.create_task(self.policies.run()),
            asyncio.create_task(self._every(settings.flush_every_s, self._flush)),
            asyncio.create_task(self._every(settings.evidence_every_s, self.report)),
            asyncio.create_task(self._every(settings.pair_every_s, self.pairs.run_once)),
        ]

    async def stop(self) -> None:
        """End the periodic work, write what waits and report once more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        self.spool.flush()
        await self.report()
        await self._forwarder.close()

    async def report(self) -> None:
        """Send the gathered evidence to the controller; what it does not take waits."""
        self.outbox.put(self.gatherer.take())
        while (batch := self.outbox.next_batch()) is not None:
            body, sequence = batch
            headers = sealed(self._seal, "evidence", 0, body)
            try:
                status, _ = await self._forwarder.post(
                    f"{self._settings.endpoint}/v1/evidence", body, headers, _EVIDENCE_TIMEOUT_S
                )
            except HeliostatError:
                return
            if status != 200:
                return
            self.outbox.acknowledged(sequence)

    async def _flush(self) -> None:
        self.spool.flush()

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await work()
            except Exception as error:  # noqa: BLE001
                telemetry.event("gateway.background_failed", problem=repr(error)[:300])

    async def _http(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        started = self._timer()
        request_id = ""
        try:
            fields = asgi.headers(scope)
            request_id = _request_id(fields) or secrets.token_hex(16)
            path = scope["path"].split("/")[1:]
            if len(path) < 1 or path[0] != "v2":
                raise Refused(404, "no such path; models are served under /v2/models")
            if path[-1] == "infer":
                _only(scope, "POST")
                body = await asgi.read_body(
                    receive,
                    fields,
                    max_bytes=self._settings.max_body_bytes,
                    timeout_s=self._settings.body_timeout_s,
                )
                answer = await self._infer(path, fields, request_id, body, started)
                await asgi.answer(send, answer.status, answer.body, answer.headers)
            else:
                _only(scope, "GET")
                status, body = self._describe(path)
                await asgi.send_json(send, status, body)
        except Refused as refused:
            extra = [(b"x-heliostat-request-id", request_id.encode())] if request_id else []
            await asgi.send_refusal(send, refused, extra)
        except asgi.Disconnected:
            return
        except Exception as error:  # noqa: BLE001
            telemetry.event("gateway.failed", request_id=request_id, problem=repr(error)[:300])
            await asgi.send_refusal(send, Refused(500, "internal error; see the gateway's log"))

    async def _infer(
        self,
        path: list[str],
        fields: Mapping[bytes, bytes],
        request_id: str,
        body: bytes,
        started: float,
    ) -> Answer:
        snapshot = self._ready()
        model, version = _model_and_version(path[:-1])
        served = snapshot.models.get(model)
        if served is None:
            raise protocol.unknown_model(model, list(snapshot.models))
        index = None
        if version is not None:
            index = served.index_of(version)
            if index is None:
                known = [variant.version for variant in served.policy.variants]
                raise Refused(404, f"version {version[:80]!r} is not served; known: {known}")
        if b"content-encoding" in fields:
            body = asgi.decompress(body, fields, max_bytes=self._settings.max_body_bytes)
        request = binary.decode(body, fields.get(b"inference-header-content-length"))
        given, num_rows = protocol.columns(request)
        by_keys = served.bind(given)
        protocol.check_outputs(request, served.stable.description.output)
        if request.id is not None and b"x-heliostat-request-id" not in fields:
            request_id = _ascii("id", request.id) or request_id
        unit = _text(fields, b"x-heliostat-unit", _MAX_NAME_CHARS)
        if unit is None:
            first = given[served.stable.request_tensors[0]][0] if by_keys else None
            unit = request_id if first is None else str(first)
        return await self._answerer.answer(
            served,
            Row(given, by_keys, _as_of(fields)),
            num_rows=num_rows,
            request_id=request_id,
            unit=unit,
            only_index=index,
            started=started,
            binary=request.wants_binary,
        )

    def _ready(self) -> Snapshot:
        snapshot = self.policies.snapshot
        if snapshot is None:
            raise Refused(503, "no policy yet; nothing is deployed", retry_after_s=1)
        return snapshot

    def _describe(self, path: list[str]) -> tuple[int, bytes]:
        match path:
            case ["v2"] | ["v2", ""]:
                return 200, _METADATA
            case ["v2", "health", "live"]:
                return 200, asgi.encode({"live": True})
            case ["v2", "health", "ready"]:
                ready = self.policies.snapshot is not None
                return 200 if ready else 503, asgi.encode(
                    {"ready": ready, "epoch": self.policies.epoch}
                )
        wants_ready = path[-1] == "ready"
        model, version = _model_and_version(path[:-1] if wants_ready else path)
        snapshot = self._ready()
        served = snapshot.models.get(model)
        if served is None:
            raise protocol.unknown_model(model, list(snapshot.models))
        index = 0 if version is None else served.index_of(version)
        known = [variant.version for variant in served.policy.variants]
        if index is None:
            raise Refused(404, f"version {version!r} is not served; known: {known}")
        loaded = served.versions[index]
        if wants_ready:
            return 200 if loaded else 503, asgi.encode({"name": model, "ready": loaded is not None})
        if loaded is None:
            raise Refused(503, f"version {version!r} cannot be loaded")
        return 200, protocol.model_metadata(loaded.description, known, loaded.request_tensors)


def _model_and_version(path: list[str]) -> tuple[str, str | None]:
    match path:
        case ["v2", "models", model] if model:
            return model, None
        case ["v2", "models", model, "versions", version] if model and version:
            return model, version
    raise Refused(404, "no such path; models are served under /v2/models")


def _only(scope: asgi.Scope, method: str) -> None:
    if scope["method"] != method:
        raise Refused(405, f"method {scope['method'][:20]}: must be {method}")


def _text(fields: Mapping[bytes, bytes], name: bytes, max_chars: int) -> str | None:
    raw = fields.get(name)
    if raw is None:
        return None
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(400, f"header {name.decode()}: must be UTF-8") from error
    return _checked(f"header {name.decode()}", text, max_chars)


def _request_id(fields: Mapping[bytes, bytes]) -> str | None:
    text = _text(fields, b"x-heliostat-request-id", 128)
    return None if text is None else _ascii("header x-heliostat-request-id", text)


def _ascii(where: str, text: str) -> str | None:
    """Check an id that we write into headers."""
    if not text.isascii():
        raise bad(where, text, "must be ASCII")
    return _checked(where, text, 128)


def _checked(where: str, text: str, max_chars: int) -> str | None:
    if len(text) > max_chars or not text.isprintable():
        raise bad(where, text, f"must be at most {max_chars} printable characters")
    return text or None


def _as_of(fields: Mapping[bytes, bytes]) -> datetime | None:
    text = _text(fields, b"x-heliostat-at", 64)
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise bad("header x-heliostat-at", text, "must be an ISO 8601 time") from error
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
