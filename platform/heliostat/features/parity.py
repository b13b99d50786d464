"""Compare what is served, what is trained on, and what a plain loop over the rows finds.

For a sample of entities and moments the join of training sets must give what the loop gives, and
so must the online store at the moment up to which it was filled and after. Moments are chosen
where joins go wrong: at an event and a microsecond before, at the end of its life and after.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from heliostat.config import require
from heliostat.data.tables import Catalog
from heliostat.errors import GateRefused
from heliostat.features import stores
from heliostat.features.definitions import CREATED_TIMESTAMP, EVENT_TIMESTAMP

if TYPE_CHECKING:
    import polars as pl

ENTITIES = 50
"""Entities per view that are compared, fewer where they have very many rows."""

ROWS = 5_000
"""Rows per view that the loop looks at, unless one entity alone has more."""

EXAMPLES_KEPT = 20

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ENTITY = "__entity"


class View(Protocol):
    """A feature view in plain words, as `FeatureService.describe` and a model package have it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Columns that name the entity."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features."""

    @property
    def ttl_s(self) -> float | None:
        """An older value is missing."""

    @property
    def version(self) -> str:
        """Digest of the definition."""

    @property
    def dtypes(self) -> tuple[str, ...]:
        """One for each feature."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParityReport:
    """What was compared and every kind of difference found."""

    at: datetime
    """The moment up to which the online store was filled."""

    views: int

    offline: int
    """Pairs of entity and moment that the join of training sets and the loop were asked for."""

    online: int
    """Pairs of entity and moment that the online store was asked for."""

    newer: int
    """Entities left out online: something newer was written to them since."""

    num_different: int

    examples: tuple[str, ...]
    """The first differences."""

    def __str__(self) -> str:
        """Say it in one line."""
        newer = f", {self.newer:,} entities newer online" if self.newer else ""
        return (
            f"{self.views} views, {self.offline:,} lookups offline, {self.online:,} online, "
            f"{self.num_different:,} different{newer}"
        )

    def require_equal(self, subject: str) -> None:
        """Refuse what stands on these values, unless all are the same and some were compared.

        Raises:
            GateRefused: They differ, or nothing could be compared online.
        """
        if self.num_different:
            saw = f"{self.num_different:,} different, such as {self.examples[0]}"
            raise GateRefused(subject, "feature parity", saw, "none")
        if not self.online:
            raise GateRefused(subject, "feature parity", "nothing compared online", "a sample")


def check(
    views: Sequence[View],
    catalog: Catalog,
    store: stores.Store,
    *,
    at: datetime,
    versions: Mapping[str, int],
    entities: int = ENTITIES,
    seed: int = 0,
) -> ParityReport:
    """Take a sample of keys and times and compare online, offline and a plain loop.

    Args:
        views: What to compare.
        catalog: Where the views' tables are.
        store: The online store.
        at: The moment up to which it was filled; inclusive, with time zone.
        versions: Version of each view's table that it was filled from, by view name.
        entities: Sample of each view, at least 1.
        seed: The same gives the same sample.

    Raises:
        ConfigError: A table or version does not exist.
        Unavailable: The store does not answer.
    """
    require(at.tzinfo is not None, "parity.at", at, "must have a time zone")
    require(entities >= 1, "parity.entities", entities, "must be at least 1")
    counts = {"offline": 0, "online": 0, "newer": 0}
    found: list[str] = []
    for view in views:
        source = random.Random(seed)  # noqa: S311 - a sample, no secret
        sample = _sample(catalog, view, versions[view.name], entities, source)
        if sample is not None:
            _offline(sample, view, at, counts, found, source)
            _online(sample, view, at, store, counts, found)
    return ParityReport(
        at=at, views=len(views), num_different=len(found), examples=tuple(found[:EXAMPLES_KEPT]),
        **counts,
    )  # fmt: skip


Row = tuple[int, int, tuple[Any, ...]]
"""Event and creation in microseconds, and the features."""


def known(
    rows: Sequence[Row], at_us: int, ttl_us: int | None, *, hide_until_created: bool
) -> list[tuple[Any, ...]]:
    """Say by looking at every row what is known of an entity at a moment.

    Returns:
        The features of the row that counts, or of all that do alike; empty where none does.

    >>> known([(5, 5, (1,)), (5, 7, (2,)), (9, 9, (3,))], 8, 3, hide_until_created=True)
    [(2,)]
    >>> known([(5, 5, (1,))], 9, 3, hide_until_created=True)
    []
    """
    seen = [row for row in rows if row[0] <= at_us and (row[1] <= at_us or not hide_until_created)]
    newest = max((row[:2] for row in seen), default=None)
    if newest is None or (ttl_us is not None and at_us - newest[0] > ttl_us):
        return []
    return [row[2] for row in seen if row[:2] == newest]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sample:
    entities: pl.DataFrame
    """Keys of the entities, numbered by `_ENTITY`."""

    values: pl.DataFrame
    """Every row of theirs."""

    rows: tuple[tuple[Row, ...], ...]
    """The same by entity number, as plain values."""


def _sample(
    catalog: Catalog, view: View, version: int, entities: int, source: random.Random
) -> _Sample | None:
    import polars as pl

    files = [str(path) for path in catalog.files(f"features/{view.name}", version)]
    if not files:
        return None
    keys = list(view.keys)
    some = pl.scan_parquet(source.sample(files, min(3, len(files)))).select(keys).drop_nulls()
    found = some.unique().collect().sort(keys)
    if not found.height:
        return None
    chosen = found[sorted(source.sample(range(found.height), min(entities, found.height)))]
    numbered = chosen.with_row_index(_ENTITY)
    values = pl.scan_parquet(files).join(numbered.lazy(), on=keys, how="inner").collect()
    sizes = values.group_by(_ENTITY).len().sort(_ENTITY)
    kept = sizes.filter((pl.col("len").cum_sum() <= ROWS) | (pl.col(_ENTITY) == 0))[_ENTITY]
    numbered = numbered.filter(pl.col(_ENTITY).is_in(kept.implode()))
    values = values.filter(pl.col(_ENTITY).is_in(kept.implode()))
    rows: list[list[Row]] = [[] for _ in range(numbered.height)]
    event = pl.col(EVENT_TIMESTAMP).dt.epoch("us")
    created = event
    if CREATED_TIMESTAMP in values.columns:
        created = pl.col(CREATED_TIMESTAMP).dt.epoch("us").fill_null(event)
    plain = values.select(
        _ENTITY, event.alias("e"), created.alias("c"),
        *(pl.col(name).alias(f"f{i}") for i, name in enumerate(view.features)),
    )  # fmt: skip
    for number, event_us, created_us, *features in plain.iter_rows():
        rows[number].append((event_us, created_us, tuple(features)))
    return _Sample(
        entities=numbered, values=values.drop(_ENTITY), rows=tuple(tuple(part) for part in rows)
    )


def _offline(
    sample: _Sample,
    view: View,
    at: datetime,
    counts: dict[str, int],
    found: list[str],
    source: random.Random,
) -> None:
    """The join of training sets against the loop, at moments around the entities' own events."""
    import polars as pl

    from heliostat.features.point_in_time import UTC_US, as_of

    ttl_us = _ttl_us(view)
    asked: list[tuple[int, int]] = []
    for number, rows in enumerate(sample.rows):
        event_us, created_us, _ = source.choice(rows)
        moments = {event_us, event_us - 1, created_us, created_us - 1, _us(at)}
        if ttl_us is not None:
            moments |= {event_us + ttl_us, event_us + ttl_us + 1}
        first, last = min(row[0] for row in rows), max(row[0] for row in rows)
        moments.add(source.randint(first, last))
        asked += [(number, moment) for moment in sorted(moments)]
    entities = (
        pl.DataFrame(asked, schema={_ENTITY: pl.UInt32, EVENT_TIMESTAMP: pl.Int64}, orient="row")
        .with_columns(pl.col(EVENT_TIMESTAMP).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"))
        .with_columns(pl.col(EVENT_TIMESTAMP).cast(UTC_US))
        .join(sample.entities, on=_ENTITY, how="left", maintain_order="left")
        .with_columns(pl.Series("__asked", [moment for _, moment in asked]))
        .sort(EVENT_TIMESTAMP)
    )
    names = list(view.features)
    joined = as_of(entities, sample.values, keys=view.keys, names=names, ttl_us=ttl_us)
    nothing = (None,) * len(names)
    for number, moment_us, *features in joined.select(_ENTITY, "__asked", *names).iter_rows():
        counts["offline"] += 1
        right = known(sample.rows[number], moment_us, ttl_us, hide_until_created=True)
        if not _among(tuple(features), right or [nothing]):
            found.append(_told("offline", sample, view, number, moment_us, features, right))


def _online(
    sample: _Sample,
    view: View,
    at: datetime,
    store: stores.Store,
    counts: dict[str, int],
    found: list[str],
) -> None:
    """The store against the loop, when it was filled and when values of then come to their end.

    A row that was created after `at` counts: whoever filled the store knew it.
    """
    ttl_us, end_us = _ttl_us(view), _us(at)
    filled = [tuple(row for row in rows if row[0] <= end_us) for rows in sample.rows]
    alive = [known(rows, end_us, ttl_us, hide_until_created=False) for rows in filled]
    if not any(alive):
        return
    moments = {end_us}
    if ttl_us is not None:
        last_us = max(rows[-1][0] for rows in map(sorted, filled) if rows)
        moments |= {last_us + ttl_us, last_us + ttl_us + 1}
    keys = {key: sample.entities[key].to_list() for key in view.keys}
    names, nothing = list(view.features), (None,) * len(view.features)
    reader = stores.open_reader(store.where, store.file, store.project, [view])
    changed = _changed(view, store, keys, at)
    for moment_us in sorted(moments):
        read = reader.read(keys, _EPOCH + timedelta(microseconds=moment_us))
        for number, rows in enumerate(filled):
            if number in changed:
                continue
            counts["online"] += 1
            features = tuple(read[name][number] for name in names)
            right = known(rows, moment_us, ttl_us, hide_until_created=False)
            if not _among(features, right or [nothing]):
                found.append(_told("online", sample, view, number, moment_us, features, right))
    counts["newer"] += len(changed)


def _changed(
    view: View, store: stores.Store, keys: Mapping[str, list[Any]], at: datetime
) -> set[int]:
    """Entities that something newer than `at` was written to: what was there before is gone."""
    from types import SimpleNamespace

    ageless = SimpleNamespace(
        name=view.name, keys=view.keys, features=view.features, ttl_s=None, version=view.version,
        dtypes=view.dtypes,
    )  # fmt: skip
    reader = stores.open_reader(store.where, store.file, store.project, [ageless])
    then, current = reader.read(keys, at), reader.read(keys, None)
    length = len(next(iter(keys.values())))
    return {
        number for number in range(length)
        if not all(_same(then[name][number], current[name][number]) for name in view.features)
    }  # fmt: skip


def _told(
    where: str, sample: _Sample, view: View, number: int, moment_us: int,
    features: Sequence[Any], right: Sequence[Sequence[Any]],
) -> str:  # fmt: skip
    keys = ", ".join(f"{key}={sample.entities[key][number]!r}" for key in view.keys)
    moment = (_EPOCH + timedelta(microseconds=moment_us)).isoformat()
    wanted = list(right[0]) if right else "nothing"
    return f"{where} {view.name}({keys}) at {moment} = {list(features)}: must be {wanted}"


def _among(features: tuple[Any, ...], right: Sequence[tuple[Any, ...]]) -> bool:
    return any(all(map(_same, features, row)) for row in right)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and math.isnan(one):
        one = None
    if isinstance(other, float) and math.isnan(other):
        other = None
    return bool(one == other)


def _ttl_us(view: View) -> int | None:
    return None if view.ttl_s is None else round(view.ttl_s * 1e6)


def _us(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)
