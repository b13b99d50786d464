"""The gateway: one raw ASGI object that admits, splits, answers and records.

Per request: route -> admission -> body -> tensors -> features -> unit -> slot -> variant ->
answer. The stable version answers in this process; what else there is can only make an answer
later or different, never missing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from heliostat import telemetry
from heliostat.access import seal as access_seal
from heliostat.access.roles import Principal
from heliostat.errors import HeliostatError
from heliostat.inference.predictor import Predictor
from heliostat.serving import asgi, binary, describing, fields, invocations, protocol, routes
from heliostat.serving.admission import Door
from heliostat.serving.answering import Answer, Answerer
from heliostat.serving.asking import Asked, Scorer, Variants
from heliostat.serving.breaker import Breaker
from heliostat.serving.evidence import Gatherer, Outbox
from heliostat.serving.exposures import Spool
from heliostat.serving.fields import Fields
from heliostat.serving.following import Follower
from heliostat.serving.forward import Forwarder, VariantClient, sealed
from heliostat.serving.metrics import Meter, Sink
from heliostat.serving.online import Features, OpenReader, Patience
from heliostat.serving.pairs import PairScorer
from heliostat.serving.refused import Refused
from heliostat.serving.residence import Residents
from heliostat.serving.routes import Match
from heliostat.serving.settings import GatewaySettings, serves
from heliostat.serving.sharing import RateSource, share_rates
from heliostat.serving.shedding import Shedder
from heliostat.serving.source import PolicySource
from heliostat.serving.versions import Loader, Row, ServedModel, Snapshot

_EVIDENCE_TIMEOUT_S = 5.0
_FIRST_POLICY_S = 30.0
"""A start takes no longer than this, whatever there is to load."""
_MAX_PATHS = 4_096


@dataclass(frozen=True, kw_only=True, slots=True)
class Outside:
    """Everything that a gateway is joined to; tests give their own."""

    policy_source: PolicySource
    forwarder: Forwarder
    open_reader: OpenReader
    door: Door
    rates: RateSource
    sink: Sink
    is_feast_ready: Callable[[], bool] | None = None
    """Whether the process with Feast's reader answers, if there is one."""


class Gateway(asgi.Application):
    """Answers the Open Inference Protocol for every model of the policy."""

    name = "gateway"

    def __init__(
        self,
        settings: GatewaySettings,
        outside: Outside,
        *,
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
        self._outside = outside
        self._timer = timer
        self.meter = Meter()
        self.residents = Residents(
            lambda path, digest: Predictor.load(path, home.keys, digest=digest),
            budget_bytes=settings.model_memory_bytes,
            meter=self.meter,
        )
        patience = Patience(
            deadline_s=settings.feature_deadline_s, failures=settings.feature_failures
        )
        self.policies = Follower(
            outside.policy_source,
            Loader(
                home.keys,
                lambda reference: Features(
                    reference, outside.open_reader, patience=patience, timer=timer
                ),
                self.residents,
                pinned=frozenset(settings.pinned),
                serves=lambda model: serves(settings, model),
            ),
            home.root / "policy.json",
            changed=self._changed,
        )
        self._seal = access_seal.load_or_create(home.keys / "gateway.key")
        self.gatherer = Gatherer(gateway_id)
        self.outbox = Outbox()
        self.spool = Spool(home.spool / "exposures", gateway_id)
        scorer, client = Scorer(self.residents), VariantClient(outside.forwarder, self._seal)
        self.pairs = PairScorer(scorer, client, self.gatherer, self.meter)
        self._variants = Variants(
            scorer=scorer,
            client=client,
            new_breaker=lambda: Breaker(
                failures=settings.breaker_failures,
                open_s=settings.breaker_open_s,
                max_ongoing=settings.max_per_variant,
            ),
            meter=self.meter,
            timer=timer,
        )
        self._answerer = Answerer(
            variants=self._variants,
            gatherer=self.gatherer,
            spool=self.spool,
            pairs=self.pairs,
            meter=self.meter,
            max_per_model=settings.max_per_model,
            clock=clock,
            timer=timer,
        )
        self._matches: dict[tuple[str, str], Match] = {}
        self._new_id = fields.RequestIds()
        self._shedder = Shedder(limit_s=settings.max_busy_s)
        self._bodies = asgi.Bodies(
            max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s
        )
        self._log = describing.AccessLog(settings.access_log_ratio, clock)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Follow the policy and run the periodic work until `stop`.

        Returns when the first policy answers: a process that took the place of another is sent
        requests as soon as it is up.
        """
        settings, door = self._settings, self._outside.door
        await asyncio.to_thread(door.look)
        self._tasks = [
            asyncio.create_task(self.policies.run()),
            asyncio.create_task(self._every(settings.flush_every_s, self._flush)),
            asyncio.create_task(self._every(settings.evidence_every_s, self.report)),
            asyncio.create_task(self._every(settings.pair_every_s, self.pairs.run_once)),
            asyncio.create_task(
                self._every(settings.keys_every_s, lambda: asyncio.to_thread(door.look))
            ),
            asyncio.create_task(
                self._every(settings.lease_every_s, lambda: share_rates(door, self._outside.rates))
            ),
        ]
        await self.policies.begun(_FIRST_POLICY_S)

    async def stop(self) -> None:
        """End the periodic work, write what waits and report once more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        self.spool.flush()
        await self.report()
        await self._outside.forwarder.close()

    async def report(self) -> None:
        """Send the gathered evidence to the controller; what it does not take waits."""
        self._measure()
        for _ in self.meter.pieces(self._outside.sink):
            await asyncio.sleep(0)
        taken = self.gatherer.take()
        self.outbox.put(taken)
        if self.policies.snapshot is not None and not self.outbox:
            # Only where nothing waits: they may not push counts out while the controller is gone.
            policy = self.policies.snapshot.policy
            ours = (each for name, each in policy.models.items() if serves(self._settings, name))
            self.outbox.put(self.gatherer.idle(policy.epoch, ours, taken))
        while (batch := self.outbox.next_batch()) is not None:
            body, sequence = batch
            headers = sealed(self._seal, "evidence", 0, body)
            try:
                status, _ = await self._outside.forwarder.post(
                    f"{self._settings.endpoint}/v1/evidence", body, headers, _EVIDENCE_TIMEOUT_S
                )
            except HeliostatError:
                return
            if status != 200:
                return
            self.outbox.acknowledged(sequence)

    def measure(self) -> None:
        """Hand what was counted to the metrics' sink."""
        self._measure()
        self.meter.drain(self._outside.sink)

    def _measure(self) -> None:
        meter = self.meter
        for model, number in self._answerer.ongoing.items():
            meter.set("heliostat_ongoing", (model,), number)
        meter.set("heliostat_pairs_waiting", (), self.pairs.num_waiting)
        meter.set("heliostat_models_resident", (), self.residents.num_loaded)
        meter.set("heliostat_model_bytes", (), self.residents.size_bytes)
        meter.set("heliostat_exposures_waiting", (), self.spool.num_waiting)
        meter.set("heliostat_exposures_dropped", (), self.spool.num_dropped)
        if self._outside.is_feast_ready is not None:
            meter.set("heliostat_feast_reader_ready", (), float(self._outside.is_feast_ready()))

    async def respond(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Answer one request."""
        started = self._timer()
        request_id: str | None = None
        match: Match | None = None
        try:
            given = asgi.headers(scope)
            request_id = fields.request_id(given) or self._new_id()
            match = self._match(scope)
            caller = self._outside.door.admit(match, given)
            if not match.route.predicts:
                status, body = self._describe(match)
                await asgi.send_json(send, status, body)
                return
            body = await self._bodies.read(receive, given)
            if self._shedder.is_busy():
                raise Refused(503, "the gateway has more work than it can do", retry_after_s=1)
            asked = self._bind(match, given, caller, request_id, body, started)
            answer: Answer = await self._answerer.answer(asked)
            await asgi.answer(send, answer.status, answer.body, answer.headers)
            if self._log.is_due(answer.status):
                self._log.write(match, answer.status, asked.request_id, self._timer() - started)
        except Refused as refused:
            action = "unknown" if match is None else match.route.action
            self.meter.add("heliostat_refusals", (action, str(refused.status)))
            if self._log.is_due(refused.status):
                self._log.write(match, refused.status, request_id or "", self._timer() - started)
            if request_id:
                refused.fields = (*refused.fields, (fields.REQUEST_ID, request_id.encode()))
            raise

    async def _flush(self) -> None:
        self.spool.flush()

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            due = self._timer() + seconds
            await asyncio.sleep(seconds)
            self.meter.set("heliostat_loop_lag_seconds", (), max(0.0, self._timer() - due))
            try:
                await work()
            except Exception as error:  # noqa: BLE001
                telemetry.event("gateway.background_failed", problem=repr(error)[:300])

    def _match(self, scope: asgi.Scope) -> Match:
        key = (scope["path"], scope["method"])
        match = self._matches.get(key)
        if match is None:
            match = routes.find(*key)
            if len(self._matches) >= _MAX_PATHS:
                self._matches.clear()
            self._matches[key] = match
        return match

    def _bind(
        self,
        match: Match,
        given: Fields,
        caller: Principal | None,
        request_id: str,
        body: bytes,
        started: float,
    ) -> Asked:
        """Read the body and join it to the model that it is for."""
        snapshot = self._ready()
        served = self._served(snapshot, match.model)
        if match.model is None:
            # Only now is it known which model the path without a name means.
            self._outside.door.require(caller, "predict", served.policy.model)
        index, wanted = None, match.version
        if fields.VERSION in given:
            wanted = fields.wanted_version(given, match.version)
            if wanted is not None:
                self._outside.door.require(caller, "operate", served.policy.model)
        if wanted is not None:
            index = describing.index_of(served, wanted)
        if b"content-encoding" in given:
            body = asgi.decompress(body, given, max_bytes=self._settings.max_body_bytes)
        form = "json"
        if match.route.action.startswith("invocations"):
            names = [item.name for item in served.stable.description.inputs]
            values, num_rows = invocations.columns(body, names)
            form = "invocations"
        else:
            request = binary.decode(body, given.get(b"inference-header-content-length"))
            values, num_rows = protocol.columns(request)
            protocol.check_outputs(request, served.stable.description.output)
            if request.id is not None:
                named = fields.as_id("id", request.id)
                if named is not None and fields.REQUEST_ID not in given:
                    request_id = named
            if request.wants_binary:
                form = "binary"
        by_keys = served.bind(values)
        unit = fields.unit(given)
        if unit is None:
            first = values[served.stable.request_tensors[0]][0] if by_keys else None
            unit = request_id if first is None else str(first)
        row = Row(values, by_keys, fields.at(given))
        return Asked(served, row, num_rows, request_id, unit, index, started, form)

    def _ready(self) -> Snapshot:
        snapshot = self.policies.snapshot
        if snapshot is None:
            raise Refused(503, "no policy yet; nothing is deployed", retry_after_s=1)
        return snapshot

    @staticmethod
    def _served(snapshot: Snapshot, model: str | None) -> ServedModel:
        if model is None:
            if len(snapshot.models) != 1:
                known = ", ".join(sorted(snapshot.models))
                raise Refused(
                    400, f"several models are served: ask /v2/models/<model>/invocations ({known})"
                )
            return next(iter(snapshot.models.values()))
        served = snapshot.models.get(model)
        if served is None:
            if model in snapshot.broken:
                raise Refused(503, f"model {model} cannot be loaded", retry_after_s=5)
            if model in snapshot.policy.models:
                # The ingress sends its requests there as soon as there is somebody.
                raise Refused(
                    503, f"model {model} has a gateway of its own, which is away", retry_after_s=5
                )
            raise protocol.unknown_model(model, list(snapshot.models))
        return served

    def _describe(self, match: Match) -> tuple[int, bytes]:
        action, state = match.route.action, self._outside.door.state
        if match.model is None:
            return describing.server(action, self.policies.snapshot, state)
        served = self._served(self._ready(), match.model)
        if action == "shadow":
            index = describing.index_of(served, match.version or "")
            return 200, asgi.encode(self.pairs.compare(served, index))
        return describing.model(action, served, match.version)

    def _changed(self, snapshot: Snapshot) -> None:
        """Bring what is kept per version in line with a new snapshot."""
        self.meter.set("heliostat_policy_epoch", (), snapshot.policy.epoch)
        known = set()
        for name, served in snapshot.models.items():
            for index, variant in enumerate(served.policy.variants):
                known.add((name, variant.version))
                labels = (name, variant.version, variant.role)
                self.meter.set("heliostat_split_ratio", labels, served.policy.share(index))
        self._variants.forget(known)
        self.pairs.forget(snapshot.models)
