"""What servers' sources share whose members are each read once, from the beginning, by one reader."""

from __future__ import annotations

from heliostat.data.rows import Member
from heliostat.errors import HeliostatError


class ReadOnce:
    """A server's answer, or its shards; asked again they may be others, or begin elsewhere."""

    @property
    def paths(self) -> tuple[str, ...]:
        """None: rows come from a server."""
        return ()

    @property
    def repeatable(self) -> bool:
        """No part of a member can be asked for alone."""
        return False

    def position(self, members: list[Member]) -> dict[str, int] | None:  # noqa: ARG002 - whole
        """Nothing: the next read is of all again."""
        return None

    def readers(self, member: Member) -> range:  # noqa: ARG002 - members are alike
        """One, so that all rows are of one answer, in its order."""
        return range(1)

    def one_chunk_each(self, member: Member) -> bool:  # noqa: ARG002 - members are alike
        """One reader has them all."""
        return False

    def read_chunk(self, member: Member, number: int) -> bytes:
        """Never asked of a source that is not repeatable."""
        raise HeliostatError(f"{member.label}: chunk {number} cannot be read again")
