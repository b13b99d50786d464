"""The controller's REST interface under ``/v1``: a raw ASGI application."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from heliostat import telemetry
from heliostat.access.keys import KeyFile, KeyRing
from heliostat.access.roles import Role
from heliostat.access.seal import Seal
from heliostat.control import commands, compared, page, view
from heliostat.control.controller import LEASE_TTL_S, Controller
from heliostat.control.loop import Loop
from heliostat.errors import ConfigError, Unavailable, nearest
from heliostat.rollout.evidence import EvidenceReport
from heliostat.serving import asgi
from heliostat.serving.forward import is_sealed
from heliostat.serving.refused import Refused
from heliostat.store.events import Tampered
from heliostat.store.leases import LeaseLost

_MAX_BODY_BYTES = 32 << 20
_BODY_TIMEOUT_S = 10.0
_MAX_CALLS = 32
_PAGE_ROLLOUTS = 5
"""The page shows so many rollouts of each model, the newest ones."""

_LEAD_WAIT_S = 2 * LEASE_TTL_S
DEPLOYMENT_WAIT_S = 55.0
"""Longest time a deployment's caller waits; below the usual 60 s of clients."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Call:
    """One request, read."""

    body: bytes
    fields: dict[bytes, bytes]
    by: str
    """Name of the caller's key, or that nobody was asked for one."""

    @property
    def key(self) -> str | None:
        """The caller's idempotency key."""
        key = self.fields.get(b"idempotency-key", b"").decode("latin-1")
        if len(key) > 200:
            raise Refused(400, "header idempotency-key: at most 200 characters")
        return key or None

    def json(self) -> Any:
        """The body's JSON value."""
        try:
            return json.loads(self.body or b"null")
        except ValueError as error:
            raise Refused(400, f"body: must be JSON; {error}") from error

    def object(self, *names: str) -> dict[str, Any]:
        """The body as a JSON object with exactly these keys."""
        raw = self.json()
        if not isinstance(raw, dict):
            raise Refused(400, f"body = {str(raw)[:80]}: must be a JSON object")
        for name in raw:
            if name not in names:
                raise ConfigError(
                    f"body.{name}", raw[name], "is not known; " + nearest(name, names)
                )
        for name in names:
            if name not in raw:
                raise ConfigError(f"body.{name}", None, "must be given")
        return raw


class ControlApp:
    """Answers ``/v1``; the controller works beside it in threads of its own."""

    def __init__(
        self, controller: Controller, loop: Loop, seal: Seal, keys: KeyFile | None = None
    ) -> None:
        """Hold the parts; the lifespan starts and stops the loop.

        Args:
            controller: Whom to ask.
            loop: What is woken by news.
            seal: Evidence is accepted only with it.
            keys: Who may ask for what, from the moment that its file is there; None lets
                everyone who can reach it.
        """
        self._controller = controller
        self._loop = loop
        self._seal = seal
        self._keys = keys
        self._ring: tuple[tuple[int, int], KeyRing] | None = None
        # Deployments wait for up to a minute: they must not use up the event loop's few threads.
        self._threads = ThreadPoolExecutor(_MAX_CALLS, thread_name_prefix="control")

    async def __call__(self, scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        """Serve one ASGI scope."""
        if scope["type"] == "lifespan":
            await asgi.lifespan(receive, send, self._start, self._stop)
        elif scope["type"] == "http":
            try:
                status, answer = await self._answer(scope, receive)
            except asgi.Disconnected:
                return
            except Exception as error:  # noqa: BLE001 - each error has its own status
                refused = _refusal(error)
                if refused.status == 500:
                    telemetry.event("control.failed", problem=repr(error)[:500])
                await asgi.send_refusal(send, refused)
            else:
                if isinstance(answer, page.Page):
                    await asgi.answer(send, status, answer.html.encode(), page.HEADERS)
                else:
                    await asgi.send_json(send, status, json.dumps(answer).encode())
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})

    async def _start(self) -> None:
        self._loop.start()

    async def _stop(self) -> None:
        await asyncio.to_thread(self._loop.stop)
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, scope: asgi.Scope, receive: asgi.Receive) -> tuple[int, Any]:
        fields = asgi.headers(scope)
        work = self._route(scope["method"], scope["path"])
        by = self._admit(scope["method"], scope["path"], fields)
        body = await asgi.read_body(
            receive, fields, max_bytes=_MAX_BODY_BYTES, timeout_s=_BODY_TIMEOUT_S
        )
        if scope["method"] == "POST":
            await self._until_leading()
        call = _Call(body=body, fields=fields, by=by)
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, call)

    def _admit(self, method: str, path: str, fields: dict[bytes, bytes]) -> str:
        """Refuse who may not ask for this; evidence carries a seal instead of a key.

        Returns the caller's name.
        """
        parts = [part for part in path.split("/") if part and part != "v1"]
        ring = self._read_keys()
        if ring is None or parts[:1] == ["evidence"]:
            return commands.UNKNOWN
        needed: Role = "operate"
        if method == "GET" or parts[:1] in (["labels"], ["outcomes"]):
            needed = "predict"
        elif parts[:1] in (["deployments"], ["models"]):
            needed = "admin"
        scheme, _, key = fields.get(b"authorization", b"").decode("latin-1").partition(" ")
        caller = ring.find(key, time.time()) if scheme.lower() == "bearer" else None
        if caller is None:
            raise Refused(401, "header authorization: must be a valid key, as in: Bearer KEY")
        if not caller.may(needed, None):
            raise Refused(403, f"{caller.name} has role {caller.role}: needs {needed}")
        return caller.name

    def _read_keys(self) -> KeyRing | None:
        """Read the keys again after every change; None while there is no file of them."""
        stamp = None if self._keys is None else self._keys.stamp()
        if self._keys is None or stamp is None:
            return None
        if self._ring is None or self._ring[0] != stamp:
            self._ring = (stamp, self._keys.ring())
        return self._ring[1]

    async def _until_leading(self) -> None:
        """Wait out the lease of a controller that was killed, rather than refuse."""
        for _ in range(int(_LEAD_WAIT_S / 0.05)):
            if self._controller.leads:
                return
            await asyncio.sleep(0.05)
        raise LeaseLost("another controller leads; ask again in a few seconds")

    def _route(self, method: str, path: str) -> Callable[[_Call], tuple[int, Any]]:
        parts = [part for part in path.split("/") if part]
        if parts[:1] == ["v1"]:
            parts = parts[1:]
        routes: dict[str, Callable[[_Call], tuple[int, Any]]]
        match parts:
            case ["status"]:
                routes = {"GET": self._status}
            case ["deployments"]:
                routes = {"POST": self._deploy}
            case ["rollouts"]:
                routes = {"GET": self._list, "POST": self._begin}
            case ["rollouts", name]:
                routes = {"GET": lambda _: self._show(name)}
            case ["rollouts", name, "abort"]:
                routes = {"POST": lambda call: self._abort(name, call)}
            case ["rollouts", name, ("pause" | "resume" | "approve" | "promote") as what]:
                routes = {"POST": lambda call: self._tell(name, what, call)}
            case ["models", name, ("freeze" | "thaw") as what]:
                routes = {"POST": lambda call: self._freeze(name, what == "freeze", call)}
            case ["models", name, "return"]:
                routes = {"POST": lambda call: self._go_back(name, call)}
            case ["page"]:
                routes = {"GET": self._page}
            case ["audit"]:
                routes = {"GET": self._audit}
            case ["evidence"]:
                routes = {"POST": self._evidence}
            case ["labels"]:
                routes = {"POST": self._labels}
            case ["outcomes"]:
                routes = {"POST": self._outcomes}
            case _:
                raise Refused(404, f"path = {path[:200]!r}: is not known")
        if method not in routes:
            raise Refused(405, f"method = {method}: must be {' or '.join(routes)}")
        return routes[method]

    def _status(self, _call: _Call) -> tuple[int, Any]:
        return 200, view.status(self._controller)

    def _list(self, _call: _Call) -> tuple[int, Any]:
        found = [
            rollout
            for model in self._controller.models()
            for rollout in self._controller.state(model).rollouts.values()
        ]
        found.sort(key=lambda rollout: rollout.started_at, reverse=True)
        return 200, {"rollouts": [view.summary(rollout) for rollout in found]}

    def _show(self, rollout_id: str) -> tuple[int, Any]:
        return 200, view.details(self._controller, commands.find(self._controller, rollout_id))

    def _deploy(self, call: _Call) -> tuple[int, Any]:
        raw = call.object("model", "version")
        for name, value in raw.items():
            if not isinstance(value, str):
                raise ConfigError(f"body.{name}", value, "must be text")
        answer = commands.deploy(
            self._controller,
            raw["model"],
            raw["version"],
            call.key,
            wait_s=DEPLOYMENT_WAIT_S,
            wake=self._loop.wake,
            by=call.by,
        )
        return 200, answer

    def _go_back(self, model: str, call: _Call) -> tuple[int, Any]:
        answer = commands.go_back(
            self._controller,
            model,
            call.key,
            because=_reason(call),
            by=call.by,
            wait_s=DEPLOYMENT_WAIT_S,
            wake=self._loop.wake,
        )
        return 200, answer

    def _begin(self, call: _Call) -> tuple[int, Any]:
        raw = call.object("plan")
        rollout = commands.start(self._controller, raw["plan"], call.key, call.by)
        self._loop.wake()
        warnings = view.warnings(self._controller, rollout)
        return 201, {**view.summary(rollout), "warnings": warnings}

    def _tell(self, rollout_id: str, what: str, call: _Call) -> tuple[int, Any]:
        rollout = commands.tell(
            self._controller, rollout_id, what, _reason(call), call.key, call.by
        )
        self._loop.wake()
        return 200, view.summary(rollout)

    def _freeze(self, model: str, on: bool, call: _Call) -> tuple[int, Any]:
        reason = _reason(call) if on else None
        frozen = commands.freeze(self._controller, model, reason, call.key, call.by)
        self._loop.wake()
        return 200, {"model": model, "frozen": frozen}

    def _page(self, _call: _Call) -> tuple[int, Any]:
        found = [
            view.details(self._controller, rollout)
            for model in self._controller.models()
            for rollout in list(self._controller.state(model).rollouts.values())[-_PAGE_ROLLOUTS:]
        ]
        found.sort(key=lambda rollout: str(rollout["started_at"]), reverse=True)
        return 200, page.render(view.status(self._controller), found)

    def _audit(self, _call: _Call) -> tuple[int, Any]:
        log = self._controller.log
        told: dict[str, Any] = {"events": {}, "tampered": {}}
        for stream in log.streams():
            try:
                told["events"][stream] = log.verify(stream)
            except Tampered as problem:
                told["tampered"][stream] = str(problem)
        return 200, told

    def _abort(self, rollout_id: str, call: _Call) -> tuple[int, Any]:
        rollout = commands.abort(self._controller, rollout_id, _reason(call), call.key, call.by)
        self._loop.wake()
        return 200, view.summary(rollout)

    def _evidence(self, call: _Call) -> tuple[int, Any]:
        if not is_sealed(self._seal, call.fields, call.body):
            raise Refused(403, "evidence: must carry the seal of a gateway of this platform")
        raw = call.json()
        try:
            reports = [EvidenceReport.from_dict(item) for item in raw]
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise Refused(400, f"evidence: must be a list of reports; {error!r}") from error
        new = self._controller.report(reports)
        self._loop.wake()
        return 200, {"received": len(reports), "used": new}

    def _labels(self, call: _Call) -> tuple[int, Any]:
        raw = call.json()
        try:
            labels = [(item["request_id"], float(item["label"])) for item in raw]
        except (TypeError, KeyError, ValueError) as error:
            rule = 'must be a list of {"request_id": text, "label": number}'
            raise Refused(400, f"labels: {rule}; {error!r}") from error
        return 200, {"received": len(labels), "joined": self._controller.label(labels)}

    def _outcomes(self, call: _Call) -> tuple[int, Any]:
        raw = call.object("model", "outcomes")
        known = self._controller.outcomes
        if known is None:
            raise Refused(404, "outcomes: this controller keeps none")
        found = compared.read(raw["outcomes"])
        return 200, {"received": len(found), "new": known.add(str(raw["model"]), found)}


def _reason(call: _Call) -> str:
    """The caller's reason, kept with the event."""
    raw = call.json()
    if isinstance(raw, dict) and isinstance(raw.get("because"), str):
        return str(raw["because"][:500])
    return "on request"


def _refusal(error: Exception) -> Refused:
    if isinstance(error, Refused):
        return error
    if isinstance(error, commands.NotFound):
        return Refused(404, str(error))
    if isinstance(error, commands.Busy):
        return Refused(409, str(error))
    if isinstance(error, ConfigError):
        return Refused(422, str(error))
    if isinstance(error, Unavailable | LeaseLost):
        return Refused(503, str(error), retry_after_s=1)
    return Refused(500, "internal error; see the controller's log")
