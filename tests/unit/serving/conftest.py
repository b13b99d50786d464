"""Parts for tests of the data plane: real gateway and variants, joined without a network."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from heliostat.access.keys import KeyFile
from heliostat.access.tokens import TokenChecker
from heliostat.errors import Unavailable
from heliostat.registry import signing
from heliostat.registry.package import (
    FeatureServiceReference,
    FeatureViewReference,
    ModelInput,
)
from heliostat.rollout.policy import ModelPolicy, Policy, Variant
from heliostat.serving.admission import Door
from heliostat.serving.forward import VariantFailed
from heliostat.serving.gateway import Gateway, Outside
from heliostat.serving.metrics import Metric
from heliostat.serving.settings import GatewaySettings, VariantSettings
from heliostat.serving.variant import VariantApp
from heliostat.stats.slots import assign
from heliostat.testing import packages

INPUTS = (
    ModelInput(name="size", kind="numeric"),
    ModelInput(name="colour", kind="categorical", vocabulary=("red", "blue")),
)
SERVICE = FeatureServiceReference(
    project="demo",
    name="shapes",
    digest="d1",
    views=(
        FeatureViewReference(
            name="sizes", keys=("shape_id",), features=("size", "colour"), ttl_s=None
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a client got."""

    status: int
    headers: dict[str, str]
    body: Any


async def ask(
    app: Any,
    path: str,
    body: Any = None,
    *,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
    pieces: Sequence[bytes] | None = None,
) -> Reply:
    """Send one request to an ASGI application; a body that is no bytes is sent as JSON."""
    if pieces is None:
        raw = (
            body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        )
        pieces = [raw]
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": piece, "more_body": number + 1 < len(pieces)}
        for number, piece in enumerate(pieces)
    ]
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method or ("GET" if body is None and pieces == [b""] else "POST"),
        "path": path,
        "headers": [
            (name.lower().encode(), value.encode()) for name, value in (headers or {}).items()
        ],
    }
    await app(scope, receive, send)
    start, *bodies = sent
    raw = b"".join(message["body"] for message in bodies)
    return Reply(
        start["status"],
        {name.decode(): value.decode() for name, value in start["headers"]},
        json.loads(raw) if raw else None,
    )


class InMemoryFeatures:
    """Features by key; an unknown key has none."""

    def __init__(self) -> None:
        self.rows: dict[Any, dict[str, Any]] = {}
        self.asked_at: list[datetime | None] = []
        self.broken = False

    def read(self, keys: Mapping[str, Sequence[Any]], at: datetime | None) -> dict[str, list[Any]]:
        if self.broken:
            raise OSError("disk I/O error")
        self.asked_at.append(at)
        rows = [self.rows.get(key, {}) for key in keys["shape_id"]]
        return {name: [row.get(name) for row in rows] for name in ("size", "colour")}


class Wire:
    """A forwarder that hands requests to applications of this process."""

    def __init__(self) -> None:
        self.apps: dict[str, Any] = {}
        self.evidence: list[Any] = []
        self.evidence_status = 200
        self.dead: set[str] = set()
        self.hangs: set[str] = set()
        self.silent: set[str] = set()
        self.asked: list[str] = []

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], timeout_s: float
    ) -> tuple[int, bytes]:
        if url.endswith("/v1/evidence"):
            if self.evidence_status == 200:
                self.evidence += json.loads(body)
            return self.evidence_status, b"{}"
        self.asked.append(url)
        base, _, action = url.rpartition("/")
        if base in self.dead:
            raise VariantFailed("no connection")
        if base in self.silent:
            await asyncio.sleep(timeout_s)
            raise VariantFailed("no answer")
        if base in self.hangs:
            await asyncio.sleep(min(timeout_s, 0.05))
            raise VariantFailed("no answer")
        reply = await ask(self.apps[base], f"/{action}", body, headers=headers)
        return reply.status, json.dumps(reply.body).encode()

    async def close(self) -> None:
        return


class Policies:
    """A source that gives what a test puts in, and tells what the gateway obeyed then."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Policy] = asyncio.Queue()
        self._asked: asyncio.Queue[int] = asyncio.Queue()

    async def next(self, after_epoch: int) -> Policy | None:
        self._asked.put_nowait(after_epoch)
        return await self.queue.get()

    async def asked_after(self, epoch: int) -> None:
        """Wait until the gateway asks for what follows this epoch."""
        while await self._asked.get() != epoch:
            pass


class NoRates:
    """A control plane that is away."""

    async def divide(self, wanted: Any) -> Any:
        raise Unavailable("plane", "away")


class Counted:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.counters: dict[tuple[str, ...], float] = {}
        self.gauges: dict[tuple[str, ...], float] = {}
        self.observed: dict[tuple[str, ...], list[float]] = {}

    def add(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        assert len(labels) == len(metric.labels)
        self.counters[metric.name, *labels] = self.counters.get((metric.name, *labels), 0) + value

    def set(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        assert len(labels) == len(metric.labels)
        self.gauges[metric.name, *labels] = value

    def observe(self, metric: Metric, labels: tuple[str, ...], value: float) -> None:
        assert len(labels) == len(metric.labels)
        self.observed.setdefault((metric.name, *labels), []).append(value)


@dataclass
class Bench:
    """A home with signed packages, a gateway, and what it is joined to."""

    root: Path
    wire: Wire = field(default_factory=Wire)
    features: InMemoryFeatures = field(default_factory=InMemoryFeatures)
    policies: Policies = field(default_factory=Policies)
    now: float = 1_700_000_000.0
    settings: dict[str, Any] = field(default_factory=dict)
    reachable: bool | None = False
    tokens: TokenChecker = field(default_factory=lambda: TokenChecker(()))
    rates: Any = field(default_factory=NoRates)
    sink: Counted = field(default_factory=Counted)

    def __post_init__(self) -> None:
        (self.root / "keys").mkdir(mode=0o700, parents=True)
        self.gateway = self.new_gateway("g1")

    def new_gateway(self, gateway_id: str, open_reader: Any = None, sink: Any = None) -> Gateway:
        settings = GatewaySettings(home=str(self.root), endpoint="http://ingress", **self.settings)
        self.keys = KeyFile(self.root / "keys", lambda: self.now)
        self.door = Door(
            self.keys,
            self.tokens,
            mode=settings.admission,
            insecure=settings.insecure,
            is_reachable=lambda: self.reachable,
            num_replicas=settings.num_replicas,
            clock=lambda: self.now,
            timer=lambda: self.now,
        )
        self.door.look()
        outside = Outside(
            policy_source=self.policies,
            forwarder=self.wire,
            open_reader=open_reader or (lambda _reference: self.features),
            door=self.door,
            rates=self.rates,
            sink=sink or self.sink,
        )
        return Gateway(settings, outside, gateway_id=gateway_id, clock=lambda: self.now)

    def package(self, version: str, **options: Any) -> tuple[str, str]:
        """Write and sign a version; return its path and digest."""
        path = self.root / "packages" / version
        packages.write_package(
            path,
            **{
                "model": "shapes",
                "inputs": INPUTS,
                "features": SERVICE,
                "bias": float(version),
                "keys_dir": self.root / "keys",
                **options,
            },
        )
        return str(path), signing.verify(path, self.root / "keys")

    def stable(self, version: str, **options: Any) -> Variant:
        path, digest = self.package(version, **options)
        return Variant(
            version=version,
            role="stable",
            placement="in_process",
            package_path=path,
            package_digest=digest,
        )

    async def candidate(self, version: str, **options: Any) -> Variant:
        """Write, sign and start an isolated version."""
        path, digest = self.package(version, **options)
        url = f"http://ingress/variants/shapes/{version}"
        app = VariantApp(
            VariantSettings(
                model="shapes",
                version=version,
                package_path=path,
                package_digest=digest,
                home=str(self.root),
            )
        )
        await app.start()
        self.wire.apps[url] = app
        return Variant(
            version=version,
            role="candidate",
            placement="isolated",
            package_path=path,
            package_digest=digest,
            url=url,
        )

    def policy(self, epoch: int, *variants: Variant, share: float = 0.0, **options: Any) -> Policy:
        shares = [1.0] if len(variants) == 1 else [1 - share, share]
        model = ModelPolicy(
            model="shapes", variants=variants, slots=assign(None, shares), **options
        )
        return Policy(epoch=epoch, models={"shapes": model})

    def exposures(self) -> list[dict[str, Any]]:
        self.gateway.spool.flush()
        files = sorted((self.root / "spool" / "exposures").glob("*.jsonl"))
        return [json.loads(line) for path in files for line in path.read_text().splitlines()]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "home")


def by_key(shape_id: str, datatype: str = "BYTES") -> dict[str, Any]:
    return {
        "inputs": [{"name": "shape_id", "shape": [1], "datatype": datatype, "data": [shape_id]}]
    }


def by_inputs(size: float | None, colour: str | None) -> dict[str, Any]:
    return {
        "inputs": [
            {"name": "size", "shape": [1], "datatype": "FP64", "data": [size]},
            {"name": "colour", "shape": [1], "datatype": "BYTES", "data": [colour]},
        ]
    }
