"""Plays a plan against traffic that was recorded or made up: what it would decide, when, at what cost."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from heliostat.config import require
from heliostat.rollout import decide as rules
from heliostat.rollout.evidence import (
    LATENCY_EDGES_MS,
    EvidenceReport,
    PairedScore,
    VariantCounts,
)
from heliostat.rollout.gathered import Gathering
from heliostat.rollout.plan import RolloutPlan
from heliostat.rollout.policy import NUM_SLOTS, name_of_twin
from heliostat.rollout.state import ModelState, RolloutState, fold
from heliostat.stats import slots

STABLE = "stable"
_NUM_BUCKETS = len(LATENCY_EDGES_MS) + 1
_MAX_TURNS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The requests of one second, as either version would answer them.

    What the version has no part in has shape (R,), the rest (2, R): stable, then candidate.
    """

    slots: NDArray[np.int64]
    units: NDArray[np.int64]
    errors: NDArray[np.bool_]
    times_ms: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.float64]
    """True outcomes; NaN where none will ever come."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """How a version behaves in made-up traffic."""

    error_ratio: float = 0.0
    latency_ms: float = 10.0
    """Median; lognormal around it."""

    latency_sigma: float = 0.5
    noise: float = 0.3
    """Standard deviation of what its scores get wrong, in logits."""

    def __post_init__(self) -> None:
        require(
            0 <= self.error_ratio <= 1, "error_ratio", self.error_ratio, "must lie between 0 and 1"
        )
        require(self.latency_ms > 0, "latency_ms", self.latency_ms, "must be above 0")
        require(self.noise >= 0, "noise", self.noise, "must be at least 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Effects:
    """What a recorded answer becomes when the candidate gives it; the defaults change nothing."""

    error_ratio_more: float = 0.0
    """Chance that a good answer becomes an error."""

    latency_factor: float = 1.0
    noise: float = 0.0
    """Added to the score's logit, standard deviation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Played:
    """How a simulated rollout ended."""

    outcome: str
    """An outcome of a rollout, or ``unfinished`` where the traffic ended first."""

    because: str
    seconds: float
    """From the first request to the outcome."""

    affected_units: int
    """Units that the candidate answered, or should have."""

    affected_requests: int
    candidate_errors: int
    """Their requests that the candidate failed; stable answers those."""

    steps: tuple[tuple[float, float], ...] = ()
    """Seconds and share in percent of each step."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: getattr(self, name) for name in Played.__slots__}


@dataclass(frozen=True, slots=True)
class _Event:
    kind: str
    payload: Mapping[str, Any]
    at: float
    version: int


def synthetic(
    stable: Version, candidate: Version, *, requests_per_s: float, seconds: int, seed: int
) -> Iterable[Rows]:
    """Made-up traffic of independent units; the same seed gives the same."""
    require(requests_per_s > 0, "requests_per_s", requests_per_s, "must be above 0")
    random = np.random.default_rng(seed)
    versions = (stable, candidate)
    error_ratio = np.array([[version.error_ratio] for version in versions])
    middle = np.array([[version.latency_ms] for version in versions])
    sigma = np.array([[version.latency_sigma] for version in versions])
    noise = np.array([[version.noise] for version in versions])
    begun = 0
    for _ in range(seconds):
        number = int(random.poisson(requests_per_s))
        truth = random.standard_normal(number) - 0.9
        wrong = noise * random.standard_normal((2, number))
        yield Rows(
            slots=random.integers(NUM_SLOTS, size=number),
            units=np.arange(begun, begun + number),
            errors=random.random((2, number)) < error_ratio,
            times_ms=middle * np.exp(sigma * random.standard_normal((2, number))),
            scores=_chance(truth + wrong),
            labels=(random.random(number) < _chance(truth)).astype(float),
        )
        begun += number


def changed(rows: Rows, effects: Effects, random: np.random.Generator) -> Rows:
    """Recorded rows, in which the candidate answers with these effects what stable answered."""
    size = rows.slots.size
    more = random.random(size) < effects.error_ratio_more
    scores = np.clip(rows.scores[0], 1e-7, 1 - 1e-7)
    logits = np.log(scores / (1 - scores)) + effects.noise * random.standard_normal(size)
    other = _chance(logits) if effects.noise else rows.scores[0]
    return Rows(
        slots=rows.slots,
        units=rows.units,
        errors=np.stack([rows.errors[0], rows.errors[0] | more]),
        times_ms=np.stack([rows.times_ms[0], rows.times_ms[0] * effects.latency_factor]),
        scores=np.stack([rows.scores[0], other]),
        labels=rows.labels,
    )


@dataclass(slots=True)
class _Traffic:
    """Splits rows by the present weights and reports them as a gateway does."""

    plan: RolloutPlan
    label_delay_s: int
    owners: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(NUM_SLOTS, dtype=np.uint8))
    epoch: int = 1
    baking: bool = False
    num_rows: int = 0
    sequence: int = 0
    errors: int = 0
    requests: int = 0
    units: set[int] = field(default_factory=set)
    seen: set[int] = field(default_factory=set)
    failed: set[int] = field(default_factory=set)
    late: deque[list[tuple[str, float]]] = field(default_factory=deque)

    def move(self, salt: str, share: float, *, baking: bool) -> None:
        """Give the candidate a share, as the controller's policies do."""
        before, self.epoch = self.owners.tobytes(), self.epoch + 1
        self.seen, self.failed = set(), set()
        if baking:
            before, shares = bytes([1]) * NUM_SLOTS, [1 - share, share]
        else:
            beside = rules.twin_share(share) if self.plan.twin else 0.0
            shares = [1 - share - beside, share, *([beside] if self.plan.twin else [])]
        self.owners = np.frombuffer(slots.assign(before, shares, salt=salt), dtype=np.uint8)
        self.baking = baking

    def second(self, rows: Rows) -> tuple[EvidenceReport, list[tuple[str, float]]]:
        """One second of traffic: its report, and the labels that arrive."""
        owners = self.owners[rows.slots]
        mine = owners == 1
        self.requests += int(mine.sum())
        self.errors += int(rows.errors[1, mine].sum())
        self.units.update(rows.units[mine].tolist())
        is_new = np.array([self._first(unit) for unit in rows.units.tolist()], dtype=bool)
        names = (STABLE, self.plan.candidate, name_of_twin(STABLE))
        counts = [
            self._counted(name, rows, owners == index, is_new, int(index == 1))
            for index, name in enumerate(names)
        ]
        ids = [f"r{self.num_rows + offset}" for offset in range(rows.slots.size)]
        self.num_rows += len(ids)
        pairs: tuple[PairedScore, ...] = ()
        if self.plan.paired:
            scores = rows.scores[::-1] if self.baking else rows.scores
            pairs = tuple(
                PairedScore(request_id=name, stable=first, candidate=second)
                for name, first, second in zip(ids, *scores.tolist(), strict=True)
            )
            known = np.isfinite(rows.labels)
            self.late.append(
                [
                    (name, label)
                    for name, label, here in zip(ids, rows.labels.tolist(), known, strict=True)
                    if here
                ]
            )
        report = EvidenceReport(
            gateway="simulated",
            sequence=self.sequence,
            model=self.plan.model,
            rollout_id="simulated",
            epoch=self.epoch,
            counts=tuple(item for item in counts if item.requests),
            pairs=pairs,
            stable=self.plan.candidate if self.baking else STABLE,
        )
        self.sequence += 1
        ready = len(self.late) > self.label_delay_s
        return report, self.late.popleft() if ready else []

    def _counted(
        self,
        name: str,
        rows: Rows,
        here: NDArray[np.bool_],
        is_new: NDArray[np.bool_],
        version: int,
    ) -> VariantCounts:
        errors = rows.errors[version, here]
        times = rows.times_ms[version, here][~errors]
        buckets = np.searchsorted(LATENCY_EDGES_MS, times)
        failed = set(rows.units[here][errors].tolist()) - self.failed
        self.failed |= failed
        return VariantCounts(
            version=name,
            requests=int(here.sum()),
            errors=int(errors.sum()),
            units=int((here & is_new).sum()),
            latency=tuple(np.bincount(buckets, minlength=_NUM_BUCKETS).tolist()),
            failed_units=len(failed),
            failed_names=tuple(failed),
        )

    def _first(self, unit: int) -> bool:
        if unit in self.seen:
            return False
        self.seen.add(unit)
        return True


def play(
    plan: RolloutPlan, traffic: Iterable[Rows], *, salt: str = "", label_delay_s: int = 2
) -> Played:
    """Let a plan decide on traffic, second by second, by the code that decides real rollouts.

    The candidate is up at once, and each decision is carried out before the next second.

    Args:
        plan: Checks are taken to pass; an A/B test cannot be played, since traffic has no
            outcomes of units.
        traffic: What each second brings.
        salt: Which units come first; the plan's own salt goes before it.
        label_delay_s: Seconds from a request to its label.

    Raises:
        ConfigError: The plan is an A/B test.
    """
    require(plan.kind != "ab", "plan.kind", plan.kind, "cannot be simulated: it needs outcomes")
    salt = plan.salt or salt
    cars = _Traffic(plan=plan, label_delay_s=label_delay_s)
    log = _Log(plan)
    now = 0.0
    steps: list[tuple[float, float]] = []
    gathering = _gathering(log.rollout)
    for rows in traffic:
        if log.turn(gathering, now, cars, salt, steps):
            break
        if log.rollout.bake_epoch is not None and not gathering.baking:
            gathering = _gathering(log.rollout)
        report, labels = cars.second(rows)
        now += 1.0
        gathering.report(report, now)
        gathering.labels(labels, now)
    return Played(
        outcome=log.rollout.outcome or "unfinished",
        because=log.rollout.because or "the traffic ended first: " + log.because,
        seconds=now,
        affected_units=len(cars.units),
        affected_requests=cars.requests,
        candidate_errors=cars.errors,
        steps=tuple(steps),
    )


class _Log:
    """The events of a simulated rollout, folded as real ones are."""

    def __init__(self, plan: RolloutPlan) -> None:
        self.state = ModelState(model=plan.model, stable=STABLE)
        self.because = ""
        started = {"rollout_id": "simulated", "plan": plan.to_dict(), "stable": STABLE}
        self.add("rollout.started", started, 0.0)
        variant = {
            "version": plan.candidate, "role": "candidate", "placement": "isolated",
            "package_path": "", "package_digest": "", "url": "http://simulated",
        }  # fmt: skip
        self.about("candidate_started", {"variant": variant}, 0.0)

    @property
    def rollout(self) -> RolloutState:
        """The one rollout."""
        return self.state.rollouts["simulated"]

    def add(self, kind: str, payload: Mapping[str, Any], at: float) -> None:
        """Append and fold."""
        event = _Event(kind, payload, at, self.state.version + 1)
        self.state = fold(self.state, [event])

    def about(self, what: str, payload: Mapping[str, Any], at: float) -> None:
        """Append an event of the rollout."""
        self.add(f"rollout.{what}", {"rollout_id": "simulated", **payload}, at)

    def decide(self, gathering: Gathering, now: float) -> rules.Decision:
        """Decide as the controller does; checks pass."""
        decision = rules.decide(self.rollout, gathering.evidence(), now)
        self.because = decision.because
        return decision

    def turn(
        self,
        gathering: Gathering,
        now: float,
        cars: _Traffic,
        salt: str,
        steps: list[tuple[float, float]],
    ) -> bool:
        """Carry out what is decided now, until nothing is left to do; say whether it has ended."""
        plan = self.rollout.plan
        for _ in range(_MAX_TURNS):
            decision = self.decide(gathering, now)
            if not decision.actions:
                return False
            evidence = gathering.evidence().to_dict()
            match decision.actions[0]:
                case rules.DecideOutcome(outcome=outcome):
                    told = {"outcome": outcome, "because": decision.because}
                    self.about("outcome_decided", {**told, "evidence": evidence}, now)
                    return True
                case rules.DecideStep(step=step):
                    self.about("step_decided", {"step": step, "evidence": evidence}, now)
                case rules.PublishStep(step=step):
                    cars.move(salt, plan.steps_percent[step] / 100, baking=False)
                    self.about("step_reached", {"step": step, "epoch": cars.epoch}, now)
                    steps.append((now, plan.steps_percent[step]))
                case rules.DecideBake():
                    self.about("bake_decided", {"evidence": evidence}, now)
                case rules.PublishBake():
                    cars.move(salt, 1 - plan.bake_percent / 100, baking=True)
                    self.about("bake_reached", {"epoch": cars.epoch}, now)
                    steps.append((now, 100 - plan.bake_percent))
                    return False  # what is gathered from now on is judged apart
        return False


def _gathering(rollout: RolloutState) -> Gathering:
    return Gathering(
        rollout_id="simulated",
        model=rollout.plan.model,
        stable=STABLE,
        candidate=rollout.plan.candidate,
        twin=rollout.plan.twin,
        loss="log_loss" if rollout.plan.loss is None else rollout.plan.loss.of,
        baking=rollout.bake_epoch is not None,
    )


def _chance(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-logits)))
