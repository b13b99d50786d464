"""The frozen description of one training: columns, network, optimisation, workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from heliostat.config import reference, require
from heliostat.training import models
from heliostat.training.compute import Compute, Keep


@dataclass(frozen=True, kw_only=True, slots=True)
class Validation:
    """Which training rows are held back to choose the best epoch."""

    share: float = 0.1
    """Share of rows held back, 0 to 0.5; with 0 the last epoch is taken."""

    time_column: str | None = None
    """Hold back the latest rows by this column, as time flows; None holds back random rows."""

    def __post_init__(self) -> None:
        require(0 <= self.share <= 0.5, "validation.share", self.share, "must lie in 0 to 0.5")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRecipe:
    """Everything that decides what is trained, but for the rows themselves."""

    label: str
    """Column to predict: 0 and 1 (or a boolean) for binary, any number for regression."""

    numeric: tuple[str, ...] = ()
    """Number columns; null and NaN mean missing."""

    categorical: tuple[str, ...] = ()
    """Text or integer columns; null means missing."""

    model: Callable[..., Any] = models.tabular
    """Called as ``model(inputs, **params)`` in each worker; see `models.tabular` for what it
    must return. With learner="estimator" called as ``model(inputs, task=task, **params)``; see
    `estimators.boosted_trees`."""

    params: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `model`."""

    learner: Literal["network", "estimator"] = "network"
    """network: `model` makes a torch network, which learns step by step.
    estimator: it makes an estimator as scikit-learn's are, which one worker fits at once; then
    epochs, batch_size, learning_rate and weight_decay mean nothing, and a lost worker begins
    again."""

    pickle: bool = False
    """With learner="estimator": keep the fitted estimator as a pickle instead of ONNX, for one that
    skl2onnx cannot convert. A process of its own answers for it, which may read code and nothing
    else (adr/0049); servers need the trainer's packages and own classes in the same versions."""

    task: Literal["binary", "regression"] = "binary"
    """Cross-entropy on a probability, or squared error on a number."""

    loss: Callable[..., Any] | None = None
    """Called as ``loss(output, label)`` with tensors of shape (B,); returns the loss of each row,
    shape (B,). None: what `task` says."""

    measure: Callable[..., Any] | None = None
    """Called as ``measure(output, label)`` on rows held back; returns named values of each row,
    shape (B,) each, whose means are logged as ``validation_<name>``."""

    loop: Callable[..., Any] | None = None
    """An own torch loop, called as ``loop(session)`` in each worker, see `training.session`.
    None: the built-in one."""

    epochs: int = 6

    batch_size: int = 4096
    """Rows per step, over all workers together; so results hardly depend on their number."""

    learning_rate: float = 2e-3
    """Highest value; it rises over the first tenth of all steps, then falls to 0 as a cosine."""

    weight_decay: float = 1e-3

    num_workers: int = 2

    min_workers: int | None = None
    """Begin and go on with so few while machines are missing, and take more as they come
    (Ray's elastic training). None: always `num_workers`."""

    resize_check_s: float = 60.0
    """With `min_workers`: how often Ray looks whether more machines are there. A change begins the
    workers anew, from the last checkpoint."""

    use_gpu: bool = False

    compute: Compute = field(default_factory=Compute)

    feed: Literal["map", "stream"] = "map"
    """map: each worker holds all rows, and seed, epoch and step alone say which come when.
    stream: Ray Data streams each worker its part; every row comes at least once in an epoch,
    and again in the rest of an epoch that is repeated after a loss."""

    keep: Keep = field(default_factory=Keep)

    log_every_steps: int = 10
    """Steps between two points of ``step/loss`` and its like in MLflow; 0 logs epochs only."""

    max_failures: int = 2
    """How often lost workers are replaced; training goes on after the last whole checkpoint."""

    seed: int = 0

    validation: Validation = field(default_factory=Validation)

    category_min_rows: int = 20
    """Categories with fewer training rows share the code of unknown ones."""

    unknown_ratio: float = 0.01
    """Share of categories hidden at random while training, so that unknown ones mean something."""

    def __post_init__(self) -> None:
        names = (*self.numeric, *self.categorical)
        require(bool(names), "train.numeric", self.numeric, "must name inputs, or categorical must")
        twice = sorted({name for name in names if names.count(name) > 1})
        require(not twice, "train inputs", twice, "must be named once")
        require(self.label not in names, "train.label", self.label, "must not be an input too")
        for function in (self.model, self.loss, self.measure, self.loop):
            if function is not None:
                reference(function)
        for name, low in (("epochs", 1), ("batch_size", 1), ("num_workers", 1)):
            require(getattr(self, name) >= low, f"train.{name}", getattr(self, name), "must be > 0")
        for name in ("max_failures", "category_min_rows", "weight_decay", "log_every_steps"):
            require(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "must be >= 0")
        for name in ("learning_rate", "resize_check_s"):
            require(getattr(self, name) > 0, f"train.{name}", getattr(self, name), "must be > 0")
        require(
            0 <= self.unknown_ratio < 1,
            "train.unknown_ratio",
            self.unknown_ratio,
            "must be in [0, 1)",
        )
        require(
            self.batch_size >= self.num_workers,
            "train.batch_size", self.batch_size, "must give each worker a row",
        )  # fmt: skip
        require(
            self.min_workers is None or 1 <= self.min_workers <= self.num_workers,
            "train.min_workers", self.min_workers, f"must be 1 to {self.num_workers}",
        )  # fmt: skip
        if self.feed == "stream":
            require(
                not self.compute.deterministic, "train.compute.deterministic", True,
                'needs feed="map"; a stream comes in the order in which its reads end',
            )  # fmt: skip
            require(
                self.min_workers is None, "train.min_workers", self.min_workers,
                'needs feed="map"; a stream is split for a fixed number of workers',
            )  # fmt: skip
        require(
            not self.pickle or self.learner == "estimator", "train.pickle", self.pickle,
            'must be false with learner="network", which ends as ONNX',
        )  # fmt: skip
        if self.learner == "estimator":
            _refuse_for_estimators(self)

    @property
    def num_epochs(self) -> int:
        """How often metrics of an epoch appear; an estimator has one."""
        return 1 if self.learner == "estimator" else self.epochs


def _refuse_for_estimators(recipe: TrainRecipe) -> None:
    """What an estimator cannot do is refused, not ignored."""
    require(
        recipe.num_workers == 1, "train.num_workers", recipe.num_workers,
        'must be 1 with learner="estimator", which one worker fits at once; give it threads with'
        " compute.cpus_per_worker",
    )  # fmt: skip
    plain = Compute(cpus_per_worker=recipe.compute.cpus_per_worker)
    for name, value, want in (
        ("loss", recipe.loss, None),
        ("measure", recipe.measure, None),
        ("loop", recipe.loop, None),
        ("feed", recipe.feed, "map"),
        ("use_gpu", recipe.use_gpu, False),
        ("compute", recipe.compute, plain),
        ("keep", recipe.keep, Keep()),
    ):
        require(
            value == want, f"train.{name}", value,
            f'must be {want!r} with learner="estimator"; it is for networks',
        )  # fmt: skip
