"""Answer events with the versions that the rollout policy names, and produce the answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import polars as pl

from heliostat import telemetry
from heliostat.data import positions
from heliostat.data.tables import Catalog
from heliostat.errors import Unavailable
from heliostat.features import stores
from heliostat.features.on_demand import Transform, completed, transforms
from heliostat.inference import columns
from heliostat.inference.predictor import Predictor
from heliostat.rollout.policy import ModelPolicy, Policy, Variant
from heliostat.stats.slots import slot
from heliostat.streams.recipe import OFFSET, PARTITION, StreamRecipe

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from heliostat.streams.messages import Writer

_ASK_S = 1.0
"""Longest age of the policy that is obeyed, while the plane answers."""


class Policies(Protocol):
    """Where the policy comes from."""

    def newest(self) -> Policy | None:
        """The newest policy; None if none can be had now."""


class PlanePolicies:
    """The plane actor of the connected Ray, which gateways follow too; overrides `Policies`."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._policy: Policy | None = None

    def newest(self) -> Policy | None:
        """Ask the actor; what was known before is given while it is away."""
        import ray

        from heliostat.serving import plane

        try:
            if self._handle is None:
                self._handle = plane.connect()
            after = -1 if self._policy is None else self._policy.epoch
            found = ray.get(self._handle.wait.remote(after, 0.001), timeout=5)
        except (ray.exceptions.RayError, TimeoutError) as error:
            self._handle = None
            telemetry.event("stream.no_policy", problem=str(error)[:300])
            return self._policy
        if found is not None:
            self._policy = plane.decode(found[1])
        return self._policy


@dataclass(frozen=True, kw_only=True, slots=True)
class Models:
    """What a consumer needs to load versions and to read their features."""

    keys_dir: Path
    """Folder of trusted keys: each version is verified before it is opened."""

    online_db: Path | None = None
    """File of the online store, for inputs that events do not hold; None reads none."""

    online_store: str = stores.FILE
    """The store, if it is another than the file."""


class Scorer:
    """Scores the rows of one consumer. Not safe in several threads.

    A row's version is that of its unit's slot, as in the gateways. A version that fails, or
    answers with something that is no number, is replaced by the stable one, and the answer says
    so; where that fails too, the answer is empty and says why.
    """

    def __init__(
        self,
        recipe: StreamRecipe,
        catalog: Catalog,
        models: Models,
        policies: Policies,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is loaded yet."""
        assert recipe.scoring is not None
        self._recipe, self._scoring = recipe, recipe.scoring
        self._catalog, self._models, self._policies, self._timer = catalog, models, policies, timer
        self._policy: Policy | None = None
        self._asked_at = -1e9
        self._loaded: dict[str, Predictor] = {}
        self._readers: dict[str, tuple[stores.Reader, list[Transform]]] = {}
        self._writer: Writer | None = None
        self._produced: dict[str, int] = {}
        """By place, the offset up to which answers are in the output topic."""

    def score(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Answer rows of the stream's table.

        Returns:
            Partition and offset, the unit, what is kept, ``score``, ``version``, ``variant``,
            ``epoch``, ``fallback`` and ``problem``; one row for each, in their order.

        Raises:
            Unavailable: There is no policy for the model; nobody may say who answers.
        """
        epoch, policy = self._current()
        slots = [policy.slots[slot(str(unit), policy.model)] for unit in rows[self._scoring.unit]]
        score_N = np.full(rows.height, np.nan, np.float32)
        answered_N = np.array(slots, np.int64)
        problems: list[str | None] = [None] * rows.height
        for index in sorted(set(slots)):
            places = np.flatnonzero(answered_N == index)
            score_N[places] = self._ask(policy.variants[index], rows[places], places, problems)
        fell_N = np.isnan(score_N) & (answered_N != 0)
        if fell_N.any():
            places = np.flatnonzero(fell_N)
            score_N[places] = self._ask(policy.stable, rows[places], places, problems)
            answered_N[places] = 0
        kept = dict.fromkeys((PARTITION, OFFSET, self._scoring.unit, *self._scoring.keep))
        return rows.select(*kept).with_columns(
            pl.Series("score", score_N).fill_nan(None),
            pl.Series("version", [policy.variants[i].version for i in answered_N], pl.String),
            pl.Series("variant", [policy.variants[i].role for i in answered_N], pl.String),
            pl.lit(epoch, dtype=pl.Int64).alias("epoch"),
            pl.Series("fallback", fell_N),
            pl.Series("problem", problems, pl.String),
        )

    def produce(self, places: Sequence[str]) -> None:
        """Send answers that are in their table and not in the output topic yet.

        After a kill, those whose sending was not noted yet are sent once more: the same answers,
        with the same ``source``, by which a reader leaves out what it has.

        Raises:
            Unavailable: The output's broker is away; they are sent later.
        """
        scoring = self._scoring
        if scoring.output is None:
            return
        marks = positions.positions(
            self._catalog, scoring.into, [name for p in places for name in (p, _produced(p))]
        )
        for place in places:
            known = self._produced.get(place, marks.get(_produced(place), 0))
            end = marks.get(place, 0)
            if end > known:
                self._send(place, known, end)
            self._produced[place] = max(known, end)

    def own(self, places: Sequence[str]) -> None:
        """Produce for these places from now on, and for no others."""
        self._produced = {p: end for p, end in self._produced.items() if p in places}

    def marks(self, places: Sequence[str]) -> dict[str, int]:
        """Positions to note with the next answers: what has been produced by now."""
        return {_produced(p): self._produced[p] for p in places if p in self._produced}

    def _send(self, place: str, begin: int, end: int) -> None:
        assert self._scoring.output is not None
        of_place = (pl.col(PARTITION) == place) & pl.col(OFFSET).is_between(begin, end - 1)
        names = self._catalog.schema(self._scoring.into).names()
        rows = positions.rows(self._catalog, self._scoring.into, names, of_place).sort(OFFSET)
        if self._writer is None:
            self._writer = self._scoring.output.writer()
        self._writer.send(
            [
                (
                    str(row[self._scoring.unit]).encode(),
                    json.dumps(
                        {"source": f"{row.pop(PARTITION)}/{row.pop(OFFSET)}", **row}, default=str
                    ).encode(),
                )
                for row in rows.iter_rows(named=True)
            ]
        )

    def _current(self) -> tuple[int, ModelPolicy]:
        if self._timer() - self._asked_at >= _ASK_S:
            self._policy = self._policies.newest() or self._policy
            self._asked_at = self._timer()
        found = None if self._policy is None else self._policy.models.get(self._scoring.model)
        if self._policy is None or found is None:
            self._asked_at = -1e9
            raise Unavailable(
                f"model {self._scoring.model}", "no rollout policy names who answers",
                next_step="Deploy it: heliostat submit -- jobs/deploy.py. Events wait meanwhile",
            )  # fmt: skip
        return self._policy.epoch, found

    def _ask(
        self,
        variant: Variant,
        rows: pl.DataFrame,
        places: NDArray[np.int64],
        problems: list[str | None],
    ) -> NDArray[np.float32]:
        """Score with one version; NaN where it failed."""
        try:
            predictor = self._predictor(variant)
            found = columns.score(predictor, self._inputs(predictor, rows))
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a version does, the event is answered
            telemetry.event(
                "stream.version_failed", version=variant.version, problem=str(error)[:300]
            )
            said, found = str(error)[:300], np.full(rows.height, np.nan, np.float32)
        else:
            said = "the score is no number"
        for place, bad in zip(places, np.isnan(found), strict=True):
            if bad:
                problems[place] = f"version {variant.version}: {said}"
        return found

    def _predictor(self, variant: Variant) -> Predictor:
        loaded = self._loaded.get(variant.package_digest)
        if loaded is None:
            loaded = self._loaded[variant.package_digest] = Predictor.load(
                Path(variant.package_path), self._models.keys_dir, digest=variant.package_digest
            )
        return loaded

    def _inputs(self, predictor: Predictor, rows: pl.DataFrame) -> pl.DataFrame:
        """The model's inputs: columns of the event, and features of its keys for the others."""
        reference = predictor.description.features
        missing = [i.name for i in predictor.description.inputs if i.name not in rows.columns]
        if not missing or reference is None or self._models.online_db is None:
            return rows
        if reference.digest not in self._readers:
            reader = stores.open_reader(
                self._models.online_store, self._models.online_db, reference.project,
                reference.views,
            )  # fmt: skip
            self._readers[reference.digest] = reader, transforms(reference.on_demand)
        reader, ready = self._readers[reference.digest]
        found = reader.read({key: rows[key].to_list() for key in reference.keys}, None)
        given = {name: rows[name].to_list() for name in reference.requested}
        found = completed(ready, found, given)
        return rows.with_columns(pl.Series(name, found[name]) for name in missing if name in found)


def _produced(place: str) -> str:
    return f"{place}/produced"
