"""Keeps a stream's consumers alive on Ray and divides the partitions among them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from heliostat import telemetry
from heliostat.data.tables import Catalog
from heliostat.errors import HeliostatError, Unavailable
from heliostat.streams.assignment import assign
from heliostat.streams.consumer import Progress
from heliostat.streams.recipe import StreamRecipe
from heliostat.streams.worker import Worker

if TYPE_CHECKING:
    from heliostat.streams.online import OnlineStore
    from heliostat.streams.scoring import Scorer

_TURN_S = 0.5
"""Length of one call of a consumer: partitions change hands between calls."""

_SILENT_S = 60.0
"""A call that takes so much longer is given up, and its consumer killed."""

_START_S = 300.0
"""The same for the first call of a consumer, whose process begins with it: on a busy machine that
takes long, and another process would take as long again."""

_LOOK_S = 30.0
"""Time between two questions whether the topic has more partitions."""


@dataclass(kw_only=True, slots=True)
class _Member:
    actor: Any
    told: tuple[str, ...] = ()
    """What it was last told to read."""
    holds: frozenset[str] = frozenset()
    """What it may still hold, until the call that tells it to let go returns."""
    call: Any = None
    called_at: float = 0.0
    leaves: bool = False
    has_answered: bool = False
    progress: Progress = field(default_factory=Progress)


class Driver:
    """A stream's consumers, as actors that end with this process.

    A partition has one reader at a time, and goes to another when its reader has let go of it or
    is dead. Should two read it all the same, the table takes the rows of one.
    """

    def __init__(
        self,
        recipe: StreamRecipe,
        catalog: Catalog,
        *,
        online: OnlineStore | None = None,
        scorer: Callable[[], Scorer] | None = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """Look at the topic and start the recipe's number of consumers on the connected Ray.

        Raises:
            ConfigError: The topic does not exist.
            Unavailable: The broker is away.
        """
        self._recipe, self._catalog = recipe, catalog
        self._online, self._scorer, self._timer = online, scorer, timer
        self._members: dict[str, _Member] = {}
        self._started = 0
        self.deaths = 0
        """Consumers that ended without being asked to."""
        self.rebalances = 0
        """How often partitions were divided anew."""
        self._partitions = recipe.log.partitions()
        self._looked_at = timer()
        self._want: dict[str, tuple[str, ...]] = {}
        self.resize(recipe.num_consumers)

    def resize(self, num_consumers: int) -> None:
        """Have so many consumers; those that leave commit first."""
        alive = [name for name, member in self._members.items() if not member.leaves]
        for name in alive[num_consumers:]:
            self._members[name].leaves = True
        for _ in range(num_consumers - len(alive)):
            self._start()
        self._divide()

    def step(self, timeout_s: float = 1.0) -> None:
        """Give work to consumers that wait, and take in what one of them answers.

        Raises:
            ConfigError: Messages are gone, or the table does not fit: what a person must look at.
        """
        import ray

        self._look()
        for name, member in list(self._members.items()):
            if member.call is None:
                self._call(name, member)
        calls = [member.call for member in self._members.values() if member.call is not None]
        done, _ = ray.wait(calls, num_returns=1, timeout=timeout_s)
        for name, member in list(self._members.items()):
            if member.call in done:
                self._take(name, member)
            elif self._timer() - member.called_at > _TURN_S + (
                _SILENT_S if member.has_answered else _START_S
            ):
                telemetry.event("stream.consumer_silent", stream=self._recipe.name, consumer=name)
                ray.kill(member.actor)
                self._lost(name)

    @property
    def progress(self) -> dict[str, Progress]:
        """The newest word of each consumer."""
        return {name: member.progress for name, member in self._members.items()}

    @property
    def actors(self) -> dict[str, Any]:
        """The consumers' actors, for tests and tools."""
        return {name: member.actor for name, member in self._members.items()}

    @property
    def behind(self) -> int | None:
        """Messages that were not read yet; None until every partition has a reader that knows."""
        known = {
            name: number
            for member in self._members.values()
            for name, number in member.progress.behind.items()
            if name in member.told
        }
        return sum(known.values()) if set(known) >= set(self._partitions) else None

    def close(self) -> None:
        """Let every consumer commit, and end them."""
        import ray

        for member in self._members.values():
            try:
                if member.call is not None:
                    ray.get(member.call, timeout=_SILENT_S)
                ray.get(member.actor.close.remote(), timeout=_SILENT_S)
            except ray.exceptions.RayError:
                self.deaths += 1
            ray.kill(member.actor)
        self._members = {}

    def _start(self) -> None:
        import ray

        name = f"{self._recipe.name}-{self._started}"
        self._started += 1
        actor = (
            ray.remote(Worker)
            .options(
                num_cpus=0,
                max_restarts=0,
                max_task_retries=0,
                # Micro-batches are small: handing them to other threads costs more than the work.
                runtime_env={"env_vars": {"POLARS_MAX_THREADS": "1"}},
            )
            .remote(self._recipe, self._catalog, name, self._online, self._scorer)
        )
        self._members[name] = _Member(actor=actor)

    def _divide(self) -> None:
        alive = [name for name, member in self._members.items() if not member.leaves]
        before = {name: self._want.get(name, member.told) for name, member in self._members.items()}
        self._want = assign(self._partitions, alive, before) if alive else {}
        self.rebalances += 1

    def _call(self, name: str, member: _Member) -> None:
        """Tell a consumer what to read: what it should have and nobody else may still hold."""
        if member.leaves and not member.holds:
            self._retire(name)
            return
        held = {p for other, m in self._members.items() if other != name for p in m.holds}
        member.told = tuple(p for p in self._want.get(name, ()) if p not in held)
        member.holds |= set(member.told)
        member.call = member.actor.work.remote(member.told, _TURN_S)
        member.called_at = self._timer()

    def _take(self, name: str, member: _Member) -> None:
        import ray

        call, member.call = member.call, None
        try:
            answer = ray.get(call)
        except ray.exceptions.RayError as error:
            telemetry.event(
                "stream.consumer_lost",
                stream=self._recipe.name, consumer=name, problem=type(error).__name__,
            )  # fmt: skip
            self._lost(name)
            return
        if isinstance(answer, HeliostatError):
            raise answer
        member.progress, member.has_answered = answer, True
        member.holds = frozenset(member.told)

    def _lost(self, name: str) -> None:
        """Replace a consumer that is dead; what it had not committed is read again."""
        member = self._members.pop(name)
        self.deaths += 1
        if not member.leaves:
            self._start()
        self._divide()

    def _retire(self, name: str) -> None:
        import ray

        ray.kill(self._members.pop(name).actor)

    def _look(self) -> None:
        if self._timer() - self._looked_at < _LOOK_S:
            return
        self._looked_at = self._timer()
        try:
            found = self._recipe.log.partitions()
        except Unavailable:
            return
        if found != self._partitions:
            self._partitions = found
            self._divide()
