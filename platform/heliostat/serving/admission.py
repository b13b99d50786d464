"""Lets a request in or says why not: credential, role, model, rate. Asks nobody, waits for nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

from heliostat import telemetry
from heliostat.access.keys import KeyFile, KeyRing
from heliostat.access.rates import Bucket
from heliostat.access.roles import Principal
from heliostat.access.tokens import TokenChecker
from heliostat.errors import ConfigError
from heliostat.serving.refused import Refused
from heliostat.serving.routes import Match

State = Literal["open", "guarded", "shut"]

_LEASE_HOLDS_S = 3.0
_MAX_BUCKETS = 10_000
_MAX_SEEN = 10_000
_CHALLENGE = ((b"www-authenticate", b'Bearer realm="heliostat"'),)


class Door:
    """The admission of one gateway process; `look` and `obey` keep it current from beside.

    open: nobody is asked. guarded: every route with a role takes a key or a token. shut: told to
    be open where other machines can connect, so only routes without a role answer.
    """

    def __init__(
        self,
        keys: KeyFile,
        tokens: TokenChecker,
        *,
        mode: str,
        insecure: bool,
        is_reachable: Callable[[], bool | None],
        num_replicas: int,
        clock: Callable[[], float],
        timer: Callable[[], float],
    ) -> None:
        """Begin guarded and without keys, so that nobody is let in before the first `look`.

        Args:
            mode: ``auto``, ``on`` or ``off``; see `GatewaySettings.admission`.
            insecure: Whether open is fine where other machines can connect.
            is_reachable: Whether they can; None while that is not known yet.
            num_replicas: How many gateways share a rate as long as nobody has divided it.
        """
        self._keys = keys
        self._tokens = tokens
        self._mode = mode
        self._insecure = insecure
        self._is_reachable = is_reachable
        self._num_replicas = num_replicas
        self._clock = clock
        self._timer = timer
        self._ring: KeyRing | None = None
        self._stamp: object = ()
        self._seen: dict[bytes, Principal] = {}
        """Good credentials as they came, since the last look; keeps a check from being made
        for each request, and holds nothing longer than the requests that brought it."""

        self._buckets: dict[str, tuple[Bucket, Principal]] = {}
        self._wanted: dict[str, int] = {}
        self._leased_at = float("-inf")
        self.state: State = "guarded"

    def look(self) -> None:
        """Read the key file if it changed, fetch key sets that are due, decide the state. Blocks."""
        state = self._decide()
        if state != self.state:
            telemetry.event("admission.changed", state=state, mode=self._mode)
            self.state = state
        try:
            stamp = self._keys.stamp()
            if stamp != self._stamp:
                self._ring = None if stamp is None else self._keys.ring()
                self._stamp = stamp
        except ConfigError as error:
            # Nobody can say which keys were revoked, so none is good.
            self._ring = None
            telemetry.event("admission.keys_unreadable", problem=str(error)[:300])
        # Last, so that nothing that was good before stays known.
        self._seen = {}
        if self._tokens.is_used:
            for problem in self._tokens.refresh():
                telemetry.event("admission.key_set_unreadable", problem=problem[:300])

    def admit(self, match: Match, fields: Mapping[bytes, bytes]) -> Principal | None:
        """Return the caller; None where nobody is asked.

        Raises:
            Refused: 401 without a good credential; 403 for what the caller may not do; 429
                beyond the caller's rate; 503 where the gateway must not serve openly.
        """
        role = match.route.role
        if role is None or self.state == "open":
            return None
        if self.state == "shut":
            raise Refused(
                503,
                "admission is off, yet other machines can connect; switch it on, bind to "
                "loopback, or start with insecure",
                retry_after_s=10,
            )
        caller = self._who(fields)
        if caller is None:
            refused = Refused(401, "an API key or a token is needed: Authorization: Bearer ...")
            refused.fields = _CHALLENGE
            raise refused
        self.require(caller, role, match.model)
        if caller.rate_per_s is not None:
            self._limit(caller)
        return caller

    @staticmethod
    def require(caller: Principal | None, role: str, model: str | None) -> None:
        """Refuse with 403 what the caller may not do; nobody was asked if it is None."""
        if caller is not None and not caller.may(role, model):
            raise Refused(403, f"{caller.name} may not: needs the role {role} for this")

    def wanted(self) -> dict[str, tuple[float, int]]:
        """Rate and number of requests of each limited caller since the last call."""
        found = {
            name: (caller.rate_per_s or 0.0, self._wanted.get(name, 0))
            for name, (_, caller) in self._buckets.items()
        }
        self._wanted = {}
        return found

    def obey(self, shares: Mapping[str, float], num_replicas: int) -> None:
        """Take the shares that this process was given of each caller's rate."""
        self._leased_at = self._timer()
        self._num_replicas = max(1, num_replicas)
        for name, share in shares.items():
            known = self._buckets.get(name)
            if known is not None and known[1].rate_per_s:
                bucket, caller = known
                _set(bucket, caller, share)

    def fall_back(self) -> None:
        """Take equal shares if nobody has divided the rates for a while."""
        if self._timer() - self._leased_at > _LEASE_HOLDS_S:
            for bucket, caller in self._buckets.values():
                _set(bucket, caller, (caller.rate_per_s or 0.0) / self._num_replicas)

    def _decide(self) -> State:
        if self._mode == "on":
            return "guarded"
        reachable = self._is_reachable()
        if self._mode == "off":
            return "open" if self._insecure or reachable is False else "shut"
        return "open" if reachable is False else "guarded"

    def _who(self, fields: Mapping[bytes, bytes]) -> Principal | None:
        raw = fields.get(b"x-api-key") or fields.get(b"authorization")
        if raw is None:
            return None
        known = self._seen.get(raw)
        if known is not None:
            return known
        found = self._check(raw, is_bare=b"x-api-key" in fields)
        if found is not None and len(self._seen) < _MAX_SEEN:
            self._seen[raw] = found
        return found

    def _check(self, raw: bytes, *, is_bare: bool) -> Principal | None:
        if not is_bare:
            kind, _, raw = raw.partition(b" ")
            if kind.lower() != b"bearer":
                return None
        try:
            text = raw.decode("ascii")
        except UnicodeDecodeError:
            return None
        if text.startswith("hs_"):
            return None if self._ring is None else self._ring.find(text, self._clock())
        return self._tokens.check(text) if self._tokens.is_used else None

    def _limit(self, caller: Principal) -> None:
        name = caller.name
        known = self._buckets.get(name)
        # A key whose limits were changed begins a new bucket.
        if known is None or known[1] is not caller:
            known = self._new_bucket(caller, known)
        self._wanted[name] = self._wanted.get(name, 0) + 1
        wait_s = known[0].take(self._timer())
        if wait_s > 0:
            raise Refused(
                429, f"{name} may send {caller.rate_per_s:g} requests per second",
                retry_after_s=max(1, math.ceil(wait_s)),
            )  # fmt: skip

    def _new_bucket(
        self, caller: Principal, known: tuple[Bucket, Principal] | None
    ) -> tuple[Bucket, Principal]:
        if known is not None and (known[1].rate_per_s, known[1].burst) == (
            caller.rate_per_s, caller.burst,
        ):  # fmt: skip
            found = (known[0], caller)
        else:
            if len(self._buckets) >= _MAX_BUCKETS:
                # Subjects of tokens are many and short-lived; the oldest begin anew.
                del self._buckets[next(iter(self._buckets))]
            share = (caller.rate_per_s or 0.0) / self._num_replicas
            bucket = Bucket(share, 1)
            _set(bucket, caller, share)
            found = (bucket, caller)
        self._buckets[caller.name] = found
        return found


def _set(bucket: Bucket, caller: Principal, share: float) -> None:
    """Give a bucket its share of rate and burst, never more than the whole."""
    rate = caller.rate_per_s or 0.0
    share = min(max(share, rate * 1e-3), rate)
    bucket.set(share, max(1.0, caller.burst * share / rate))
