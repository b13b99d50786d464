"""Where a stream puts its views' values: the online store, by whoever writes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from heliostat.features.definitions import FeatureView
from heliostat.features.online import OnlineWriter

if TYPE_CHECKING:
    import polars as pl


class ViewWriter(Protocol):
    """Writes newest values; `heliostat.features.online.OnlineWriter` is one."""

    def write(self, view: FeatureView, frame: pl.DataFrame) -> int:
        """Write each entity's newest row, unless the store has a newer one."""

    def close(self) -> None:
        """Let go of the store."""


class OnlineStore(Protocol):
    """A store that each consumer opens for itself; `heliostat.features.stores.Store` is one.

    Plain to pickle.
    """

    def open(self) -> ViewWriter:
        """Open a writer; it may connect later."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SqliteOnline:
    """The embedded store; overrides `OnlineStore`."""

    path: Path
    project: str

    def open(self) -> ViewWriter:
        """Open Feast's layout in an SQLite file."""
        return OnlineWriter(self.path, self.project)
