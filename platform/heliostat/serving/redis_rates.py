"""Counts callers' requests in Redis, so that gateways of several clusters hold one rate together."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from heliostat.access.rates import divide
from heliostat.errors import Unavailable
from heliostat.features.redis_client import RedisAddress, RedisLine, packed

_TIMEOUT_S = 0.5
_GATEWAY_SILENT_S = 3.0
_KEPT_S = 10

# One script, so that all gateways write and read under one clock and never half of it. Notes the
# requests per second of one gateway and returns what all that live have noted, for each caller.
_SCRIPT = b"""
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local silent, kept = tonumber(ARGV[2]), tonumber(ARGV[3])
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. (now - silent))
redis.call('EXPIRE', KEYS[1], kept)
local found = {redis.call('ZCARD', KEYS[1])}
for index = 2, #KEYS do
  redis.call('HSET', KEYS[index], ARGV[1], ARGV[index + 2] .. ' ' .. now)
  redis.call('EXPIRE', KEYS[index], kept)
  local rows = redis.call('HGETALL', KEYS[index])
  local seen = {}
  for row = 1, #rows, 2 do
    local want, at = string.match(rows[row + 1], '(%S+) (%S+)')
    if now - tonumber(at) <= silent then
      table.insert(seen, rows[row])
      table.insert(seen, want)
    else
      redis.call('HDEL', KEYS[index], rows[row])
    end
  end
  table.insert(found, seen)
end
return found
"""


class RedisRates:
    """Divides callers' rates by what Redis counts; see `heliostat.serving.sharing.RateSource`.

    Asked twice a second beside the requests, never by one of them.
    """

    def __init__(self, address: RedisAddress, gateway: str, *, prefix: str = "heliostat") -> None:
        """Connects to nothing yet.

        Args:
            address: The server.
            gateway: Who asks; unique.
            prefix: Of the keys, where several platforms share a server.
        """
        self._address = address
        self._gateway = gateway.encode()
        self._prefix = prefix.encode()
        self._line: RedisLine | None = None
        self._asked_at: float | None = None

    async def divide(self, wanted: Mapping[str, tuple[float, int]]) -> tuple[dict[str, float], int]:
        """Tell what this gateway saw and take its shares.

        Raises:
            Unavailable: The server does not answer in half a second, or refuses.
        """
        now = asyncio.get_running_loop().time()
        period_s = 0.5 if self._asked_at is None else min(max(now - self._asked_at, 0.05), 10.0)
        self._asked_at = now
        names = list(wanted)
        request = self._request(names, [wanted[name][1] / period_s for name in names])
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                if self._line is None or not self._line.is_open:
                    self._line = await RedisLine.open(self._address)
                ((living, *seen),) = await self._line.exchange(request, 1)
        except TimeoutError as error:
            self._drop()
            raise Unavailable(f"rate store {self._address}", "is silent") from error
        except Unavailable:
            self._drop()
            raise
        own = self._gateway.decode()
        return {
            name: divide(wanted[name][0], _by_gateway(rows))[own]
            for name, rows in zip(names, seen, strict=True)
        }, int(living)

    def _request(self, names: list[str], rates: list[float]) -> bytes:
        keys = [self._prefix + b":gateways"]
        keys += [self._prefix + b":rate:" + name.encode() for name in names]
        command = [
            b"EVAL", _SCRIPT, b"%d" % len(keys), *keys,
            self._gateway, b"%g" % _GATEWAY_SILENT_S, b"%d" % _KEPT_S,
            *(b"%.6f" % rate for rate in rates),
        ]  # fmt: skip
        return packed([command])

    def _drop(self) -> None:
        if self._line is not None:
            self._line.abort()
            self._line = None


def _by_gateway(rows: list[Any]) -> dict[str, float]:
    names = [name.decode() for name in rows[::2]]
    return dict(zip(names, map(float, rows[1::2]), strict=True))
