"""A run's view of its tables: the versions it pinned, and nothing that is sealed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from heliostat.data.tables import Catalog
from heliostat.errors import HeliostatError

if TYPE_CHECKING:
    from deltalake import DeltaTable


class SealedTable(HeliostatError):
    """A stage opened a table that is sealed until the replay: a leak of labels to come."""

    def __init__(self, table: str) -> None:
        super().__init__(
            f"table {table}: is sealed; only the replay, the label join and the final report "
            "may open it"
        )
        self.table = table


@dataclass(frozen=True, slots=True)
class RunCatalog(Catalog):
    """A catalog for the stages of one run, in this process and in the tasks it is sent to."""

    sealed: frozenset[str] = frozenset()
    """Tables that cannot be opened."""

    pinned: Mapping[str, int] = field(default_factory=dict)
    """Versions that count as the newest, whatever was written since."""

    def version(self, name: str) -> int | None:
        """Pinned version of the table, else its newest, or None if there is no such table."""
        newest = Catalog.version(self, name)
        return None if newest is None else self.pinned.get(name, newest)

    def _open(self, name: str, *, to_read: bool = False) -> DeltaTable | None:
        if name in self.sealed:
            raise SealedTable(name)
        return Catalog._open(self, name, to_read=to_read)

    def _existing(self, name: str, version: int | None) -> DeltaTable:
        wanted = self.pinned.get(name) if version is None else version
        return Catalog._existing(self, name, wanted)
