"""The detached Ray actor that hands policies from the controller to all gateways at once."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from heliostat.access.rates import divide
from heliostat.errors import ConfigError, Unavailable
from heliostat.rollout.policy import Policy

NAME = "plane"
NAMESPACE = "heliostat"

_POLL_S = 10.0
_DIVIDE_TIMEOUT_S = 1.0
_GATEWAY_FORGOTTEN_S = 60.0
_GATEWAY_SILENT_S = 3.0
_MAX_CALLERS = 20_000


class Plane:
    """Holds the newest policy in memory; the durable truth is the controller's event log.

    A restarted plane is empty until the controller publishes again; gateways keep what
    they have.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._epoch = -1
        self._payload = b""
        self._changed = asyncio.Event()
        self._gateways: dict[str, tuple[int, float]] = {}
        self._wanted: dict[str, dict[str, float]] = {}
        self._asked_at: dict[str, float] = {}

    async def publish(self, epoch: int, payload: bytes) -> int:
        """Make the policy known to all who wait. The same epoch may be published again.

        Raises:
            ConfigError: A higher epoch was published before.
        """
        if epoch < self._epoch:
            raise ConfigError("policy.epoch", epoch, f"must not be below {self._epoch}")
        self._epoch, self._payload = epoch, payload
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        return epoch

    async def wait(
        self, after_epoch: int, timeout_s: float, gateway: str | None = None
    ) -> tuple[int, bytes] | None:
        """Return the newest policy as soon as its epoch is above `after_epoch`.

        Args:
            after_epoch: What the caller obeys now, -1 for nothing.
            timeout_s: After this time without a newer policy, None is returned.
            gateway: Who waits; noted for `active`.
        """
        if gateway is not None:
            self._gateways[gateway] = (after_epoch, self._clock())
        ends = self._clock() + timeout_s
        while self._epoch <= after_epoch:
            try:
                async with asyncio.timeout(ends - self._clock()):
                    await self._changed.wait()
            except TimeoutError:
                return None
        return self._epoch, self._payload

    async def active(self) -> dict[str, int]:
        """Epoch that each gateway obeyed when it last asked; silent ones are forgotten."""
        oldest = self._clock() - _GATEWAY_FORGOTTEN_S
        self._gateways = {k: v for k, v in self._gateways.items() if v[1] >= oldest}
        return {gateway: epoch for gateway, (epoch, _) in self._gateways.items()}

    async def divide(
        self, gateway: str, wanted: dict[str, tuple[float, int]]
    ) -> tuple[dict[str, float], int]:
        """Note what a gateway was asked for and return its shares of the callers' rates.

        Args:
            gateway: Who asks.
            wanted: By caller, the whole rate per second and the requests since it last asked.

        Returns:
            Shares in requests per second by caller, and the number of living gateways.
        """
        now = self._clock()
        period_s = min(max(now - self._asked_at.get(gateway, now - 1.0), 0.05), 10.0)
        self._asked_at[gateway] = now
        living = {name for name, at in self._asked_at.items() if now - at <= _GATEWAY_SILENT_S}
        self._asked_at = {name: self._asked_at[name] for name in living}
        shares = {}
        for caller, (rate_per_s, number) in wanted.items():
            seen = self._wanted.setdefault(caller, {})
            seen[gateway] = number / period_s
            seen = self._wanted[caller] = {k: v for k, v in seen.items() if k in living}
            shares[caller] = divide(rate_per_s, seen)[gateway]
        if len(self._wanted) > _MAX_CALLERS:
            self._wanted.clear()
        return shares, len(living)

    async def epoch(self) -> int:
        """Epoch of the newest policy, -1 if there is none."""
        return self._epoch


def connect() -> Any:
    """Return the handle of the plane actor, starting it if there is none.

    Call it where Ray is initialised, such as inside a Serve replica.
    """
    import ray

    return (
        ray.remote(Plane)
        .options(
            name=NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            num_cpus=0,
            max_concurrency=1_000,
        )
        .remote()
    )


def encode(policy: Policy) -> bytes:
    """Turn a policy into the bytes that travel."""
    return json.dumps(policy.to_dict(), separators=(",", ":")).encode()


def decode(payload: bytes) -> Policy:
    """Build the policy from `encode`'s bytes, with every check."""
    return Policy.from_dict(json.loads(payload))


class PlaneSource:
    """Follows the plane actor from inside a gateway replica."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self._handle: Any = None

    async def next(self, after_epoch: int) -> Policy | None:
        """Wait for a newer policy; see `heliostat.serving.source.PolicySource`."""
        try:
            if self._handle is None:
                self._handle = await asyncio.to_thread(connect)
            async with asyncio.timeout(_POLL_S + 5):
                found = await self._handle.wait.remote(after_epoch, _POLL_S, self._gateway)
        except Exception as error:
            # Ray raises many kinds when an actor or the cluster's head is away; all mean
            # that there is no news now, and a fresh handle is asked for next time.
            self._handle = None
            raise Unavailable("plane", f"{type(error).__name__}: {error}"[:300]) from error
        return None if found is None else decode(found[1])


class PlaneRates:
    """Lets the plane actor divide callers' rates; see `heliostat.serving.sharing.RateSource`."""

    def __init__(self, gateway: str) -> None:
        self._gateway = gateway
        self._handle: Any = None

    async def divide(self, wanted: Mapping[str, tuple[float, int]]) -> tuple[dict[str, float], int]:
        """Ask the actor."""
        try:
            if self._handle is None:
                self._handle = await asyncio.to_thread(connect)
            async with asyncio.timeout(_DIVIDE_TIMEOUT_S):
                found: tuple[dict[str, float], int] = await self._handle.divide.remote(
                    self._gateway, dict(wanted)
                )
        except Exception as error:
            self._handle = None
            raise Unavailable("plane", f"{type(error).__name__}: {error}"[:300]) from error
        return found
