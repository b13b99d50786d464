"""What sources share that are asked as a whole: one answer, read once and from its beginning."""

from __future__ import annotations

from heliostat.data.rows import Member
from heliostat.errors import HeliostatError


class AskedWhole:
    """A server's answer as the only member; asked again it may be another one."""

    @property
    def paths(self) -> tuple[str, ...]:
        """None: rows come from a server."""
        return ()

    @property
    def repeatable(self) -> bool:
        """Asked again it may answer otherwise."""
        return False

    def position(self, members: list[Member]) -> None:  # noqa: ARG002 - asked as a whole
        """Nothing: it is read whole."""
        return

    def readers(self, member: Member) -> range:  # noqa: ARG002 - the answer is the member
        """One, so that all rows are of one answer."""
        return range(1)

    def one_chunk_each(self, member: Member) -> bool:  # noqa: ARG002 - the answer is the member
        """One reader has them all."""
        return False

    def read_chunk(self, member: Member, number: int) -> bytes:
        """Never asked of a source that is not repeatable."""
        raise HeliostatError(f"{member.label}: chunk {number} cannot be read again")
