"""Feature views and services as declared values: what is computed, from what, and for whom."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from heliostat.config import reference, require, require_name
from heliostat.errors import nearest
from heliostat.features import on_demand as text

if TYPE_CHECKING:
    import polars as pl

EVENT_TIMESTAMP = "event_timestamp"
"""The moment a feature row, or an entity row, became known (UTC, microseconds)."""

CREATED_TIMESTAMP = "created_timestamp"
"""Optional: when the row was written; of two rows with equal event time the later one counts."""

DType = Literal["float64", "int64", "string"]

Compute = Callable[[Mapping[str, "pl.DataFrame"]], "pl.DataFrame"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Feature:
    """One named value of an entity."""

    name: str

    dtype: DType

    description: str = ""

    def __post_init__(self) -> None:
        require_name("feature.name", self.name)
        require(
            self.dtype in ("float64", "int64", "string"),
            f"feature {self.name}.dtype",
            self.dtype,
            "must be float64, int64 or string",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureView:
    """Features of one entity that are computed together from tables and share a time to live."""

    name: str

    keys: tuple[str, ...]
    """Columns that name the entity; at least one."""

    features: tuple[Feature, ...]

    inputs: tuple[str, ...]
    """Tables that `compute` reads, by catalog name."""

    compute: Compute
    """Takes the input tables by name; returns the keys, ``event_timestamp`` (the moment the
    row became known, UTC) and the features, as many rows as there are changes."""

    ttl_s: float | None
    """A value older than this is missing (an age equal to it still counts); None keeps it."""

    integer_keys: tuple[str, ...] = ()
    """Keys that are whole numbers; the others are text."""

    partition_by: tuple[str, ...] = ()
    """Keys by which the inputs may be split, so that `compute` runs on parts in parallel.
    Every input that has all these columns is split; the others are given whole."""

    defaults: tuple[tuple[str, float | int | str | None], ...] | None = None
    """Values that a gateway answers with, and says so, when the online store does not answer in
    time; a feature that is not named is missing then. None refuses such requests with 503."""

    owner: str = ""

    description: str = ""

    def __post_init__(self) -> None:
        require_name("view.name", self.name)
        where = f"view {self.name}"
        require(bool(self.keys), f"{where}.keys", self.keys, "must name at least one key")
        for key in self.keys:
            require_name(f"{where}.keys", key)
        require(
            bool(self.features),
            f"{where}.features",
            self.features,
            "must name at least one feature",
        )
        require(bool(self.inputs), f"{where}.inputs", self.inputs, "must name at least one table")
        columns = [*self.keys, *(item.name for item in self.features)]
        _require_unique(f"{where}.columns", columns)
        for reserved in (EVENT_TIMESTAMP, CREATED_TIMESTAMP):
            require(
                reserved not in columns, f"{where}.columns", reserved, "is a reserved column name"
            )
        require(
            self.ttl_s is None or self.ttl_s > 0,
            f"{where}.ttl_s",
            self.ttl_s,
            "must be above 0 seconds, or None to keep values for ever",
        )
        names = [item.name for item in self.features]
        for name, _ in self.defaults or ():
            require(name in names, f"{where}.defaults", name, f"must be one of {names}")
        reference(self.compute)
        for part in ("partition_by", "integer_keys"):
            for key in getattr(self, part):
                require(key in self.keys, f"{where}.{part}", key, "must be one of the keys")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the view's table holds, in order (without an optional created time)."""
        return (*self.keys, EVENT_TIMESTAMP, *(item.name for item in self.features))

    @property
    def table(self) -> str:
        """Name of the view's table in the catalog."""
        return f"features/{self.name}"

    def digest(self) -> str:
        """Name this definition by content, the text of `compute` included: 16 hex digits."""
        content = {
            "name": self.name,
            "keys": self.keys,
            "integer_keys": self.integer_keys,
            "features": [(item.name, item.dtype) for item in self.features],
            "inputs": self.inputs,
            "compute": reference(self.compute),
            "source": inspect.getsource(self.compute),
            "ttl_s": self.ttl_s,
        }
        return _digest(content)


@dataclass(frozen=True, kw_only=True, slots=True)
class OnDemandView:
    """Features that are computed from a row when it is asked for, by the same code everywhere."""

    name: str

    inputs: tuple[str, ...]
    """Features of the service's views that `compute` reads."""

    features: tuple[Feature, ...]

    compute: Callable[[dict[str, Any]], dict[str, Any]]
    """Takes one row, inputs and requested by name, None where missing; returns the features.
    Its text goes into the model's package: it may use nothing but what `on_demand` allows."""

    requested: tuple[Feature, ...] = ()
    """Columns that a request, and an entity row of a training set, carries itself."""

    owner: str = ""

    description: str = ""

    def __post_init__(self) -> None:
        require_name("on-demand view.name", self.name)
        where = f"on-demand view {self.name}"
        require(bool(self.features), f"{where}.features", (), "must name at least one feature")
        given = [*self.inputs, *(item.name for item in self.requested)]
        require(bool(given), f"{where}.inputs", (), "must name at least one column")
        _require_unique(f"{where}.columns", [*given, *(item.name for item in self.features)])
        text.text_of(self.compute, where)

    @property
    def source(self) -> str:
        """Text of `compute`."""
        return text.text_of(self.compute, f"on-demand view {self.name}")

    def digest(self) -> str:
        """Name this definition by content, the text of `compute` included: 16 hex digits."""
        kinds = [
            [(item.name, item.dtype) for item in part] for part in (self.requested, self.features)
        ]
        return _digest([self.name, self.inputs, *kinds, self.source])


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureService:
    """The views that one model reads, in the order their columns appear."""

    project: str

    name: str

    views: tuple[FeatureView, ...]

    on_demand: tuple[OnDemandView, ...] = ()
    """Computed from the views' features and what a request carries; their columns come last."""

    def __post_init__(self) -> None:
        require_name("service.project", self.project)
        require_name("service.name", self.name)
        where = f"service {self.name}"
        require(bool(self.views), f"{where}.views", self.views, "must name at least one view")
        _require_unique(f"{where}.views", [view.name for view in self.views])
        _require_unique(
            f"{where}.features", [item.name for view in self.views for item in view.features]
        )
        keys = set(self.keys)
        for item in self.features:
            require(
                item.name not in keys, f"{where}.features", item.name,
                "must not have the name of a key",
            )  # fmt: skip
        self._require_on_demand(where)

    def _require_on_demand(self, where: str) -> None:
        _require_unique(f"{where}.views", [view.name for view in self.everything])
        _require_unique(f"{where}.features", [item.name for item in self.features])
        stored = {item.name for view in self.views for item in view.features}
        taken = {*self.keys, *(item.name for item in self.features)}
        kinds: dict[str, DType] = {}
        for view in self.on_demand:
            for name in view.inputs:
                require(
                    name in stored, f"on-demand view {view.name}.inputs", name,
                    "must be a feature of a view of the service", breaks=nearest(name, stored),
                )  # fmt: skip
            for item in view.requested:
                require(
                    item.name not in taken and kinds.setdefault(item.name, item.dtype) == item.dtype,
                    f"on-demand view {view.name}.requested", item.name,
                    "must be no key and no feature, and of one type everywhere",
                )  # fmt: skip

    @property
    def everything(self) -> tuple[FeatureView | OnDemandView, ...]:
        """All views, the stored ones first."""
        return (*self.views, *self.on_demand)

    @property
    def keys(self) -> tuple[str, ...]:
        """Every entity key that the service needs, in order of first use."""
        return tuple(dict.fromkeys(key for view in self.views for key in view.keys))

    @property
    def features(self) -> tuple[Feature, ...]:
        """Every feature, in the order of the views, on-demand ones last."""
        return tuple(item for view in self.everything for item in view.features)

    @property
    def requested(self) -> tuple[Feature, ...]:
        """What a request carries besides the keys, in order of first use."""
        found = {item.name: item for view in self.on_demand for item in view.requested}
        return tuple(found.values())

    def digest(self) -> str:
        """Name all definitions of the service by content: 16 hex digits."""
        content = [self.project, self.name, [view.digest() for view in self.views]]
        if self.on_demand:
            content.append([view.digest() for view in self.on_demand])
        return _digest(content)

    def input_types(self, view: OnDemandView) -> dict[str, DType]:
        """Type of each column that one of its on-demand views gets."""
        kinds = {item.name: item.dtype for own in self.views for item in own.features}
        return {
            **{name: kinds[name] for name in view.inputs},
            **{item.name: item.dtype for item in view.requested},
        }

    def describe(self) -> dict[str, Any]:
        """Give the service as plain values, as a model package stores it."""
        return {
            "project": self.project,
            "name": self.name,
            "digest": self.digest(),
            "views": [
                {
                    "name": view.name,
                    "keys": view.keys,
                    "features": tuple(item.name for item in view.features),
                    "ttl_s": view.ttl_s,
                    "version": view.digest(),
                    "dtypes": tuple(item.dtype for item in view.features),
                    "defaults": view.defaults,
                }
                for view in self.views
            ],
            "on_demand": [
                {
                    "name": view.name,
                    "inputs": tuple(self.input_types(view).items()),
                    "requested": tuple(item.name for item in view.requested),
                    "features": tuple((item.name, item.dtype) for item in view.features),
                    "source": view.source,
                    "version": view.digest(),
                }
                for view in self.on_demand
            ],
        }


def _digest(content: object) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _require_unique(where: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, where, tuple(twice), "must each have an own name")
