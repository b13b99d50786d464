"""Models in memory: loaded when first needed, put away least recently used, by a budget."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path

from heliostat import telemetry
from heliostat.inference.predictor import Predictor
from heliostat.serving.batching import Batcher, pays
from heliostat.serving.metrics import Meter

Load = Callable[[Path, str], Predictor]


class Resident:
    """One version's place; its predictor comes and goes."""

    __slots__ = (
        "batcher",
        "digest",
        "is_pinned",
        "lock",
        "model",
        "path",
        "predictor",
        "size_bytes",
        "used",
    )

    def __init__(self, model: str, path: Path, digest: str, *, is_pinned: bool) -> None:
        self.model = model
        self.path = path
        self.digest = digest
        self.is_pinned = is_pinned
        self.predictor: Predictor | None = None
        self.batcher: Batcher | None = None
        """Where the package asks for joint runs, and they pay."""

        self.size_bytes = 0
        self.used = 0
        """Number of the last use; higher is later."""

        self.lock = threading.Lock()


class Residents:
    """All versions that this process answers with itself.

    A request holds its predictor while it runs, so putting a version away fails nobody: the
    next request for it waits for a load, others wait for nothing.
    """

    def __init__(self, load: Load, *, budget_bytes: int, meter: Meter) -> None:
        """Begin empty.

        Args:
            load: Verifies and loads a package.
            budget_bytes: What all versions together may take by estimate. One larger than
                that is loaded all the same, alone.
        """
        self._load = load
        self._budget_bytes = budget_bytes
        self._meter = meter
        self._held: dict[str, Resident] = {}
        self._uses = 0
        self._evicting = threading.Lock()
        self.num_loads = 0
        self.num_evictions = 0

    @property
    def size_bytes(self) -> int:
        """Estimated memory of what is loaded now."""
        return sum(item.size_bytes for item in list(self._held.values()) if item.predictor)

    @property
    def num_loaded(self) -> int:
        """Versions loaded now."""
        return sum(item.predictor is not None for item in list(self._held.values()))

    def hold(self, model: str, path: Path, digest: str, *, is_pinned: bool) -> Resident:
        """Return the version's place, making an empty one if there is none."""
        found = self._held.get(digest)
        if found is None:
            found = self._held[digest] = Resident(model, path, digest, is_pinned=is_pinned)
        found.is_pinned = is_pinned
        return found

    def has_room(self) -> bool:
        """Whether another version may be loaded before anybody asks for it."""
        return self.size_bytes < self._budget_bytes

    def get(self, resident: Resident) -> Predictor | None:
        """Return the predictor if it is loaded, and note the use."""
        self._uses += 1
        resident.used = self._uses
        return resident.predictor

    def load(self, resident: Resident) -> Predictor:
        """Load the version if it is not; blocks, and several callers share one load.

        Raises:
            HeliostatError: It cannot be verified or loaded.
        """
        with resident.lock:
            if resident.predictor is not None:
                return resident.predictor
            began = time.perf_counter()
            predictor = self._load(resident.path, resident.digest)
            self._uses += 1
            resident.used = self._uses
            resident.size_bytes = predictor.size_bytes
            options = predictor.description.serving
            if options.max_batch_rows > 1 and pays(predictor):
                resident.batcher = Batcher(
                    predictor, max_rows=options.max_batch_rows, wait_s=options.batch_wait_s
                )
            resident.predictor = predictor
            self.num_loads += 1
            self._meter.observe(
                "heliostat_model_load_seconds", (resident.model,), time.perf_counter() - began
            )
        self._make_room(resident)
        return predictor

    async def wait(self, resident: Resident) -> Predictor:
        """Load in a thread while others are answered."""
        return await asyncio.to_thread(self.load, resident)

    def keep_only(self, digests: set[str]) -> None:
        """Let go of every other version, so that memory returns to what is needed."""
        self._held = {digest: item for digest, item in self._held.items() if digest in digests}

    def _make_room(self, newest: Resident) -> None:
        with self._evicting:
            size = self.size_bytes
            for item in sorted(self._held.values(), key=lambda item: item.used):
                if size <= self._budget_bytes:
                    return
                if item is newest or item.is_pinned or item.predictor is None:
                    continue
                size -= item.size_bytes
                item.predictor = item.batcher = None
                self.num_evictions += 1
                telemetry.event("model.put_away", model=item.model, digest=item.digest[:20])
