"""What the gateway and the variant applications are told when they are deployed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from heliostat.config import require
from heliostat.errors import ConfigError, nearest
from heliostat.store.home import Home

DEFAULT_ENDPOINT = "http://127.0.0.1:8000"

S = TypeVar("S")


@dataclass(frozen=True, kw_only=True, slots=True)
class GatewaySettings:
    """Settings of one gateway application; all its replicas share them."""

    home: str
    """Absolute path of the platform's state folder."""

    endpoint: str = DEFAULT_ENDPOINT
    """Base URL of the ingress, as reached from this machine; evidence is sent there."""

    num_replicas: int = 1
    """Gateway processes."""

    max_ongoing_requests: int = 400
    """Requests that one replica works on at a time."""

    max_queued_requests: int = 400
    """Requests that may wait beyond these; more are refused with 503."""

    max_body_bytes: int = 8 << 20
    """Longer request bodies are refused with 413."""

    body_timeout_s: float = 10.0
    """A body must be complete in this time, else 408."""

    evidence_every_s: float = 1.0
    """Time between two reports to the controller."""

    flush_every_s: float = 0.5
    """Time between two writes of the exposure log."""

    pair_every_s: float = 0.5
    """Time between two batches of paired scoring."""

    breaker_failures: int = 5
    """Failures in a row after which a variant is not asked for a while."""

    breaker_open_s: float = 2.0
    """How long it is not asked."""

    def __post_init__(self) -> None:
        _absolute("gateway.home", self.home)
        _http("gateway.endpoint", self.endpoint)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, str):
                require(value > 0, f"gateway.{field.name}", value, "must be above 0")

    @property
    def layout(self) -> Home:
        """Where things lie in the state folder."""
        return Home(root=Path(self.home))


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantSettings:
    """Settings of the application of one model version."""

    model: str
    version: str
    package_path: str
    package_digest: str
    home: str
    max_ongoing_requests: int = 400
    max_body_bytes: int = 32 << 20
    body_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        _absolute("variant.home", self.home)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, str):
                require(bool(value), f"variant.{field.name}", value, "must not be empty")
            else:
                require(value > 0, f"variant.{field.name}", value, "must be above 0")

    @property
    def layout(self) -> Home:
        """Where things lie in the state folder."""
        return Home(root=Path(self.home))


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
        expected = {"str": str, "int": int, "float": (int, float)}[str(fields[key].type)]
        require(
            isinstance(value, expected) and not isinstance(value, bool),  # type: ignore[arg-type]
            f"args.{key}",
            value,
            f"must be {fields[key].type}",
        )
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in args:
            raise ConfigError("args", sorted(args), f"must have {name!r}")
    return kind(**args)


def _absolute(where: str, value: str) -> None:
    require(Path(value).is_absolute(), where, value, "must be an absolute path")


def _http(where: str, value: str) -> None:
    require(
        value.startswith(("http://", "https://")) and not value.endswith("/"),
        where,
        value,
        "must begin with http:// or https:// and not end with /",
    )
