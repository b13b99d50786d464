"""Ray Tune's searchers, schedulers and domains for a `SearchRecipe`. Loads Ray Tune when called."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from heliostat.training import search
from heliostat.training.search import Choice, Range, SearchRecipe


def domain(kind: Range | Choice) -> Any:
    """What Tune draws a field's values from."""
    from ray import tune

    if isinstance(kind, Choice):
        return tune.choice(list(kind.options))
    if kind.whole:
        low, high = int(kind.low), int(kind.high) + 1
        return tune.lograndint(low, high) if kind.scale == "log" else tune.randint(low, high)
    if kind.scale == "log":
        return tune.loguniform(kind.low, kind.high)
    return tune.uniform(kind.low, kind.high)


def searcher(plan: SearchRecipe, max_concurrent: int) -> Any:
    """What proposes the trials, so many at a time."""
    if plan.searcher == "optuna":
        from ray.tune.search import ConcurrencyLimiter
        from ray.tune.search.optuna import OptunaSearch

        return ConcurrencyLimiter(OptunaSearch(seed=plan.seed), max_concurrent)
    from ray.tune.search.basic_variant import BasicVariantGenerator

    class Random(BasicVariantGenerator):
        def set_state(self, state: dict[str, Any]) -> None:
            # A driver killed between Tune's two files leaves trials here that have ended, and
            # their places would never be free. Trials that go on may exceed the limit instead.
            super().set_state({**state, "_live_trials": set()})  # type: ignore[no-untyped-call]

    return Random(random_state=plan.seed, max_concurrent=max_concurrent)


def scheduler(plan: SearchRecipe, num_epochs: int) -> Any:
    """What ends trials early, or sends them on from another one's weights; None for neither."""
    from ray.tune import schedulers

    if plan.scheduler == "asha":
        return schedulers.ASHAScheduler(
            time_attr="epoch", max_t=num_epochs, grace_period=plan.grace_epochs
        )
    if plan.scheduler == "pbt":
        return schedulers.PopulationBasedTraining(
            time_attr="epoch",
            perturbation_interval=plan.grace_epochs,
            hyperparam_mutations={
                # Of a domain Tune would multiply a choice by 0.8; of a list it takes a neighbour.
                name: list(kind.options) if isinstance(kind, Choice) else domain(kind)
                for name, kind in plan.space.items()
            },
            custom_explore_fn=lambda values: search.within(plan.space, values),
        )
    return None


@contextlib.contextmanager
def without_advice(plan: SearchRecipe) -> Iterator[None]:
    """Drop Tune's advice to let trials of pbt share processes.

    A process that is used again would go on training the trial before: it ends with the trial.
    """
    with warnings.catch_warnings():
        if plan.scheduler == "pbt":
            warnings.filterwarnings("ignore", "Consider boosting PBT performance", UserWarning)
        yield
