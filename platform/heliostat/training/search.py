"""What a search tries: the space, how trials are chosen and stopped, how many run at once."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from heliostat import config
from heliostat.config import require
from heliostat.training.recipe import TrainRecipe


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """Numbers between two bounds, both possible."""

    low: float
    high: float

    scale: Literal["linear", "log"] = "linear"
    """log: each power of ten is as likely as the next."""

    whole: bool = False
    """Whole numbers only."""

    def __post_init__(self) -> None:
        require(self.low < self.high, "range.high", self.high, f"must be above {self.low}")
        require(
            self.scale == "linear" or self.low > 0,
            "range.low", self.low, 'must be > 0 with scale="log"',
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One of some values."""

    options: tuple[Any, ...]

    def __post_init__(self) -> None:
        require(len(self.options) > 1, "choice.options", self.options, "must be two or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchRecipe:
    """A search over fields of a `TrainRecipe`; the least validation loss wins."""

    space: Mapping[str, Range | Choice]
    """Fields as ``--set`` names them, such as ``learning_rate`` or ``params.hidden``."""

    num_trials: int = 8

    searcher: Literal["random", "optuna"] = "random"
    """optuna: its TPE sampler, which learns from trials that ended."""

    scheduler: Literal["all", "asha", "pbt"] = "all"
    """all: every trial runs all epochs. asha: bad ones end early. pbt: bad ones go on from a good
    one's weights with changed values; the space must then hold optimisation only, no widths, and
    only trials that run at the same time learn from each other."""

    grace_epochs: int = 1
    """Epochs that asha and pbt leave a trial in peace."""

    max_concurrent: int | None = None
    """Trials at a time; None: as many as the cluster has room for."""

    seed: int = 0

    def __post_init__(self) -> None:
        require(bool(self.space), "search.space", dict(self.space), "must name a field")
        for name in ("num_trials", "grace_epochs"):
            require(getattr(self, name) >= 1, f"search.{name}", getattr(self, name), "must be > 0")
        require(
            self.max_concurrent is None or self.max_concurrent >= 1,
            "search.max_concurrent", self.max_concurrent, "must be > 0 or null",
        )  # fmt: skip
        require(
            self.scheduler != "pbt" or self.searcher == "random",
            "search.searcher", self.searcher, 'must be "random" with pbt, which changes values',
        )  # fmt: skip


def applied(recipe: TrainRecipe, values: Mapping[str, Any]) -> TrainRecipe:
    """Put a trial's values into the recipe.

    Raises:
        ConfigError: A name is no field, or a value is not of its type.
    """
    return config.override(
        recipe, [f"{name}={json.dumps(value)}" for name, value in values.items()]
    )


def within(space: Mapping[str, Range | Choice], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a trial with those that left their range at its nearest bound.

    >>> within({"epochs": Range(low=1, high=9, whole=True)}, {"epochs": 11, "seed": 3})
    {'epochs': 9, 'seed': 3}
    """
    found = dict(values)
    for name, kind in space.items():
        if isinstance(kind, Range) and name in found:
            low, high = (int(kind.low), int(kind.high)) if kind.whole else (kind.low, kind.high)
            found[name] = min(max(found[name], low), high)
    return found


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Those of a trial's values that can be drawn as curves.

    >>> numbers({"learning_rate": 0.01, "params.kind": "wide", "params.gated": True})
    {'search/learning_rate': 0.01}
    """
    return {
        f"search/{name}": float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def check(recipe: TrainRecipe, search: SearchRecipe) -> None:
    """Refuse a search that could not work, before anything starts.

    Raises:
        ConfigError: A field does not exist or cannot take a value of its range; or no rows are
            held back to compare trials on.
    """
    require(
        recipe.validation.share > 0, "train.validation.share", recipe.validation.share,
        "must be above 0 for a search: trials are compared on rows held back",
    )  # fmt: skip
    require(
        search.scheduler == "all" or recipe.learner == "network",
        "search.scheduler", search.scheduler,
        'must be "all" with learner="estimator", which is fitted at once: none could end early',
    )  # fmt: skip
    for name, kind in search.space.items():
        ends = kind.options if isinstance(kind, Choice) else (kind.low, kind.high)
        for value in ends:
            whole = isinstance(kind, Range) and kind.whole
            applied(recipe, {name: int(value) if whole else value})


def num_concurrent(recipe: TrainRecipe, search: SearchRecipe, *, cpus: float, gpus: float) -> int:
    """How many trials fit the cluster at once.

    Ray places all workers of a trial together or not at all, and a trial's own process takes no
    CPU, so trials beyond this number would wait, but never hold what another one needs.

    Raises:
        ConfigError: Not even one fits; it would wait for ever.
    """
    need = recipe.num_workers * recipe.compute.cpus_per_worker
    spare = 1.0 if recipe.feed == "stream" else 0.0
    fit = math.floor((cpus - spare) / need + 1e-9)
    if recipe.use_gpu:
        fit = min(fit, math.floor(gpus / recipe.num_workers + 1e-9))
    require(
        fit >= 1, "train.num_workers", recipe.num_workers,
        f"must fit the cluster; one trial takes {need:g} of its {cpus:g} CPUs"
        + (f" and {recipe.num_workers} of its {gpus:g} GPUs" if recipe.use_gpu else ""),
    )  # fmt: skip
    return min(fit, search.num_trials, search.max_concurrent or fit)
