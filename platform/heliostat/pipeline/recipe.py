"""The one config of a whole run: sources, features, two versions, a canary and its replay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from heliostat.config import require, require_name
from heliostat.data.contract import Contract
from heliostat.data.rows import Source
from heliostat.errors import nearest
from heliostat.features.definitions import FeatureService
from heliostat.registry.package import ServingOptions
from heliostat.rollout.plan import RolloutPlan
from heliostat.training.gates import Gate
from heliostat.training.recipe import TrainRecipe
from heliostat.training.trials import Behaviour

if TYPE_CHECKING:
    import polars as pl

Derive = Callable[[Mapping[str, "pl.DataFrame"]], "pl.DataFrame"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Period:
    """A stretch of time, its end excluded."""

    start: str
    """ISO 8601 with an offset, such as ``2013-01-01T05:00:00+00:00``."""

    end: str

    def __post_init__(self) -> None:
        for where, text in (("period.start", self.start), ("period.end", self.end)):
            try:
                moment = datetime.fromisoformat(text)
            except ValueError:
                moment = datetime.min  # noqa: DTZ901 - only to fail the rule below
            require(
                moment.tzinfo is not None, where, text, "must be an ISO 8601 time with an offset"
            )
        require(self.start_at < self.end_at, "period.end", self.end, f"must be after {self.start}")

    @property
    def start_at(self) -> datetime:
        """First moment that belongs to the period."""
        return datetime.fromisoformat(self.start)

    @property
    def end_at(self) -> datetime:
        """First moment that no longer belongs to it."""
        return datetime.fromisoformat(self.end)


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceTable:
    """A table read from a source, each row checked by its contract."""

    source: Source
    contract: Contract


@dataclass(frozen=True, kw_only=True, slots=True)
class DerivedTable:
    """A table computed from source tables when they are ingested."""

    name: str

    inputs: tuple[str, ...]
    """Source tables that `compute` reads."""

    compute: Derive

    replayed_by: str | None = None
    """Time column of what must stay unseen: rows at or after the replay's start go to a table
    of their own, ``<name>_replay``, which only the replay and the final report may open."""

    @property
    def replay_name(self) -> str:
        """Table with the rows that the replay reveals."""
        return f"{self.name}_replay"


@dataclass(frozen=True, kw_only=True, slots=True)
class Examples:
    """What is predicted: one row per example, and its label once that is known."""

    table: str
    """Table with the entity keys and the prediction time; must hold no label."""

    id: str
    """Column, in both tables, that names an example."""

    time: str
    """Prediction time in `table`."""

    labels: str
    """Table with ids and labels."""

    label: str
    """Label column, 0 or 1 or a number."""

    known_at: str
    """Column of `labels`: when the label became known."""

    inputs: tuple[str, ...] = ()
    """Columns of `table` that a request carries itself: all inputs of the model where the recipe
    has no feature service, and none where it has one, which says itself what it wants."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionRecipe:
    """How one version of the model is trained and judged."""

    train: Period
    evaluate: Period
    training: TrainRecipe
    gates: tuple[Gate, ...]

    behaviours: tuple[Behaviour, ...] = ()
    """How scores must answer to changed rows; each is a metric that a gate may ask for."""

    serving: ServingOptions = field(default_factory=ServingOptions)
    """Where servers run the network, and how many rows at once; the package carries it."""

    prepare: Callable[[pl.DataFrame], pl.DataFrame] | None = None
    """Changes the training rows, and only them; for experiments that must fail."""

    def __post_init__(self) -> None:
        require(
            self.evaluate.start_at >= self.train.end_at,
            "version.evaluate.start",
            self.evaluate.start,
            f"must not lie before the end of training, {self.train.end}",
        )
        require(bool(self.gates), "version.gates", self.gates, "must not be empty")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayRecipe:
    """How recorded examples become live traffic."""

    period: Period

    requests_per_s: float = 300.0
    """Rate at which requests are sent, whether or not earlier ones were answered."""

    publish_every_s: float = 1800.0
    """Features advance at whole multiples of this, in the replayed time."""

    deadline_s: float = 1.0
    """A request that is not answered by then has failed."""

    rounds: int = 1
    """How often the period is replayed. Rounds after the first bring requests, not labels: errors
    and latency gain evidence by them, the loss does not. More than one only without features,
    since the online store does not go back in time."""

    def __post_init__(self) -> None:
        require(self.rounds >= 1, "replay.rounds", self.rounds, "must be at least 1")
        for name in ("requests_per_s", "publish_every_s", "deadline_s"):
            value = getattr(self, name)
            require(value > 0, f"replay.{name}", value, "must be above 0")

    @property
    def publish_every(self) -> timedelta:
        """Replayed time between two publications of features."""
        return timedelta(seconds=self.publish_every_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineRecipe:
    """Everything that one run of the whole pipeline needs."""

    model: str
    """Registered model's name."""

    sources: tuple[SourceTable, ...]
    derived: tuple[DerivedTable, ...]
    service: FeatureService | None
    """Features read by key; None where requests carry all inputs, `Examples.inputs`."""

    examples: Examples

    stable: VersionRecipe
    """The version that serves first."""

    candidate: VersionRecipe
    """The version that has to earn the traffic."""

    canary: RolloutPlan
    """Its model and versions are filled in by the run."""

    replay: ReplayRecipe

    def __post_init__(self) -> None:
        require_name("recipe.model", self.model)
        sources = {table.contract.table for table in self.sources}
        for table in self.derived:
            require_name("derived.name", table.name)
            for name in table.inputs:
                require(
                    name in sources, f"derived {table.name}.inputs", name,
                    "must be a source table", breaks=nearest(name, sources),
                )  # fmt: skip
        derived = {table.name for table in self.derived}
        for where, name in (
            ("examples.table", self.examples.table),
            ("examples.labels", self.examples.labels),
        ):
            require(
                name in derived, where, name, "must be a derived table",
                breaks=nearest(name, derived),
            )  # fmt: skip
        self._require_inputs()
        for view in () if self.service is None else self.service.views:
            for name in view.inputs:
                require(
                    name in sources | derived, f"view {view.name}.inputs", name,
                    "must be a table of this recipe", breaks=nearest(name, sources | derived),
                )  # fmt: skip
                require(
                    name != self.examples.labels and name not in self.sealed,
                    f"view {view.name}.inputs",
                    name,
                    "must hold no labels and nothing that is sealed until the replay",
                )
        for version in (self.stable, self.candidate):
            require(
                version.evaluate.end_at <= self.replay.period.start_at,
                "version.evaluate.end",
                version.evaluate.end,
                f"must not reach into the replay, which starts {self.replay.period.start}",
            )

    def _require_inputs(self) -> None:
        where, inputs = "examples.inputs", self.examples.inputs
        if self.service is None:
            require(bool(inputs), where, inputs, "must name columns where there is no service")
            for version in (self.stable, self.candidate):
                for name in (*version.training.numeric, *version.training.categorical):
                    require(
                        name in inputs, "version.training inputs", name,
                        "must be among examples.inputs", breaks=nearest(name, inputs),
                    )  # fmt: skip
        else:
            require(not inputs, where, inputs, "must be empty where a service delivers them")
            require(
                self.replay.rounds == 1, "replay.rounds", self.replay.rounds,
                "must be 1 where features are read online: they do not go back in time",
            )  # fmt: skip
        require(
            self.examples.label not in inputs, where, self.examples.label, "must not be the label"
        )

    @property
    def asked(self) -> tuple[str, ...]:
        """Columns of an example that its request carries: entity keys and what on-demand views
        want, or all inputs.
        """
        if self.service is None:
            return self.examples.inputs
        return (*self.service.keys, *(item.name for item in self.service.requested))

    @property
    def sealed(self) -> frozenset[str]:
        """Tables that only the replay, the label join and the final report may open.

        These are the replayed parts, and the sources they were cut from.
        """
        hidden = [table for table in self.derived if table.replayed_by is not None]
        return frozenset(name for table in hidden for name in (table.replay_name, *table.inputs))
