"""What the gateway and the variant applications are told when they are deployed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from heliostat.config import require
from heliostat.errors import ConfigError, nearest
from heliostat.store.home import Home

DEFAULT_ENDPOINT = "http://127.0.0.1:8000"

S = TypeVar("S")

_Admission = Literal["auto", "on", "off"]
_KINDS: dict[str, Any] = {
    "str": str,
    "int": int,
    "float": (int, float),
    "bool": bool,
    "tuple[str, ...]": (list, tuple),
    "str | None": str,
    "int | None": int,
    "float | None": (int, float),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaSettings:
    """What every application of the data plane is told."""

    home: str
    """Absolute path of the platform's state folder."""

    max_ongoing_requests: int = 400
    """Requests that one replica works on at a time."""

    max_queued_requests: int = 400
    """Requests that may wait beyond these; more are refused with 503."""

    max_body_bytes: int = 8 << 20
    """Longer request bodies are refused with 413."""

    body_timeout_s: float = 8.0
    """A body must be complete in this time, else 408."""

    num_replicas: int = 1
    """Processes; the least of them where `max_replicas` is set."""

    max_replicas: int | None = None
    """Up to so many are started when requests wait, and ended again when none do."""

    target_ongoing: int = 16
    """Requests under way in one replica beyond which another is started."""

    upscale_delay_s: float = 5.0
    """How long the load must last before one is started."""

    downscale_delay_s: float = 120.0
    """How long it must be away before one is ended."""

    num_gpus: float | None = None
    """Of each replica. Without it replicas see no GPU."""

    def __post_init__(self) -> None:
        """Check that texts are there and numbers are above 0.

        Raises:
            ConfigError: One is not.
        """
        kind = type(self).__name__.removesuffix("Settings").lower()
        _absolute(f"{kind}.home", self.home)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str):
                require(bool(value), f"{kind}.{field.name}", value, "must not be empty")
            elif not isinstance(value, bool) and isinstance(value, int | float):
                require(value > 0, f"{kind}.{field.name}", value, "must be above 0")
        require(
            self.max_replicas is None or self.max_replicas >= self.num_replicas,
            f"{kind}.max_replicas", self.max_replicas, f"must be at least {self.num_replicas}",
        )  # fmt: skip

    @property
    def layout(self) -> Home:
        """Where things lie in the state folder."""
        return Home(root=Path(self.home))


@dataclass(frozen=True, kw_only=True, slots=True)
class GatewaySettings(ReplicaSettings):
    """Settings of one gateway application; all its replicas share them."""

    model: str | None = None
    """The one model of a gateway of its own, mounted at ``/v2/models/<model>``; without it the
    gateway answers for every model but those that are `elsewhere`."""

    elsewhere: tuple[str, ...] = ()
    """Models that have a gateway of their own; `heliostat serve` fills it in."""

    endpoint: str = DEFAULT_ENDPOINT
    """Base URL of the ingress, as reached from this machine; evidence is sent there."""

    admission: _Admission = "auto"
    """Whether callers need an API key or a token; auto: unless only loopback is listened on."""

    insecure: bool = False
    """Serve without asking for keys even where other machines can reach the gateway."""

    evidence_every_s: float = 1.0
    """Time between two reports to the controller."""

    flush_every_s: float = 0.5
    """Time between two writes of the exposure log."""

    pair_every_s: float = 0.5
    """Time between two batches of paired scoring."""

    keys_every_s: float = 0.4
    """Time between two looks at the files of keys; a revoked key ends within it."""

    lease_every_s: float = 0.5
    """Time between two divisions of rate limits among replicas."""

    breaker_failures: int = 5
    """Failures in a row after which a variant is not asked for a while."""

    breaker_open_s: float = 2.0
    """How long it is not asked."""

    max_per_variant: int = 64
    """Requests that one replica has under way to one isolated version; the stable version
    answers what comes beyond."""

    max_per_model: int = 200
    """Requests for one model that one replica works on at a time; more are refused with 503."""

    max_busy_s: float = 0.25
    """A replica that has worked for so many processor seconds in one turn of its event loop refuses
    what else has come, with 503: what waits makes all others late."""

    model_memory_bytes: int = 2 << 30
    """Memory for models in one replica; the least recently used beyond it are put away."""

    pinned: tuple[str, ...] = ()
    """Models that are never put away."""

    online_store: str = "file"
    """Where features are read: ``file`` is the platform's own on this machine's disk, or what
    ``HELIOSTAT_ONLINE_STORE`` says where that is set; else a URL as ``redis://host:port/0`` or
    ``postgresql://host:port/database``."""

    feast_repository: str | None = None
    """Absolute path of a Feast project's ``feature_store.yaml`` folder, for models whose features
    that project holds. Each replica starts one process with Feast in it (400 MB), for services
    with types that only Feast decodes."""

    rate_store: str = "plane"
    """Where gateways tell each other how often a caller came: ``plane`` is an actor of this Ray
    cluster; a URL as ``redis://host:port/0`` joins the gateways of several."""

    feature_deadline_s: float = 0.04
    """A read from a server that takes longer gives the declared defaults, or 503."""

    feature_failures: int = 5
    """Failed reads in a row after which the server is left alone for a second."""

    access_log_ratio: float = 0.01
    """Share of requests that get a line in the access log; refusals and errors always do."""

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigError: One breaks its rule.
        """
        # Slots make a new class, to which the short form of super() does not lead.
        ReplicaSettings.__post_init__(self)
        require(
            self.endpoint.startswith(("http://", "https://")) and not self.endpoint.endswith("/"),
            "gateway.endpoint",
            self.endpoint,
            "must begin with http:// or https:// and not end with /",
        )
        require(
            self.admission in get_args(_Admission),
            "gateway.admission",
            self.admission,
            "must be auto, on or off",
        )
        require(
            self.model is None or not self.elsewhere,
            "gateway.elsewhere", self.elsewhere, "must be empty where model is set",
        )  # fmt: skip
        if self.feast_repository is not None:
            _absolute("gateway.feast_repository", self.feast_repository)
        require(
            self.rate_store == "plane" or self.rate_store.startswith(("redis://", "rediss://")),
            "gateway.rate_store", self.rate_store, "must be plane or a URL of Redis",
        )  # fmt: skip
        ratio = self.access_log_ratio
        require(ratio <= 1, "gateway.access_log_ratio", ratio, "must be at most 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantSettings(ReplicaSettings):
    """Settings of the application of one model version."""

    model: str
    version: str
    package_path: str
    package_digest: str
    max_body_bytes: int = 32 << 20


def serves(settings: GatewaySettings, model: str) -> bool:
    """Say whether a gateway of these settings answers for the model."""
    if settings.model is not None:
        return model == settings.model
    return model not in settings.elsewhere


def from_args(kind: type[S], args: Mapping[str, Any]) -> S:
    """Build settings from the ``args`` of a Serve application.

    Raises:
        ConfigError: A key is unknown (with the nearest right one) or missing, or a value is
            of another type or out of range.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key, value in args.items():
        if key not in fields:
            raise ConfigError("args", key, "is not a setting", breaks=nearest(key, fields))
        kind_of = str(fields[key].type)
        expected = _KINDS.get(kind_of, str)
        require(
            isinstance(value, expected) and isinstance(value, bool) == (kind_of == "bool"),
            f"args.{key}",
            value,
            f"must be {kind_of}",
        )
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in args:
            raise ConfigError("args", sorted(args), f"must have {name!r}")
    # YAML and JSON have lists where settings hold tuples.
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in args.items()})


def _absolute(where: str, value: str) -> None:
    require(Path(value).is_absolute(), where, value, "must be an absolute path")
