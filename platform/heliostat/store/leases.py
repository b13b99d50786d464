"""Leases with fencing tokens: one writer at a time, and a stale one is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from heliostat.config import require
from heliostat.errors import HeliostatError
from heliostat.store import schema


class LeaseLost(HeliostatError):
    """Somebody else holds the lease now; stop acting and acquire it again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fence:
    """Proof of holding a lease; its token rises with each new holder."""

    name: str
    token: int


class Leases:
    """The leases of one state database."""

    def __init__(self, path: str | Path) -> None:
        """Use the state database at `path`; it is opened at first use."""
        self._database = schema.Database(path)

    def acquire(self, name: str, holder: str, ttl_s: float, now: float) -> Fence | None:
        """Take or renew a lease.

        The same holder keeps its token; a new holder gets a higher one, which at once makes
        every write with the old token fail.

        Args:
            name: What may have only one writer.
            holder: Who asks; unique for each process.
            ttl_s: How long the lease lasts without renewal.
            now: Seconds since 1970, from a clock that all holders share.

        Returns:
            The fence to pass to every write, or None while another holder's lease lasts.
        """
        require(ttl_s > 0, "lease.ttl_s", ttl_s, "must be above 0")
        table = schema.leases
        with self._database.write() as connection:
            row = connection.execute(sa.select(table).where(table.c.name == name)).first()
            if row is not None and row.holder != holder and row.expires_at > now:
                return None
            token = 1 if row is None else row.token + (row.holder != holder)
            values = {"holder": holder, "token": token, "expires_at": now + ttl_s}
            if row is None:
                connection.execute(sa.insert(table).values(name=name, **values))
            else:
                connection.execute(sa.update(table).where(table.c.name == name).values(**values))
        return Fence(name=name, token=token)

    def release(self, name: str, holder: str) -> None:
        """Give the lease up at once, if this holder has it."""
        table = schema.leases
        with self._database.write() as connection:
            connection.execute(
                sa.update(table)
                .where(table.c.name == name, table.c.holder == holder)
                .values(expires_at=0.0)
            )


def check(connection: sa.Connection, fence: Fence) -> None:
    """Refuse a write whose fence is no longer the newest; call it inside the transaction.

    Raises:
        LeaseLost: Another holder has taken the lease since.
    """
    table = schema.leases
    query = sa.select(table.c.token).where(table.c.name == fence.name)
    token = connection.execute(query).scalar()
    if token != fence.token:
        raise LeaseLost(f"lease {fence.name}: token {fence.token} is stale, the newest is {token}")
