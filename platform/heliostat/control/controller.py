"""The single writer that carries out rollouts; every step may be killed and is done again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from heliostat import telemetry
from heliostat.control.actions import Actions
from heliostat.control.checks import Checks
from heliostat.control.compared import Comparisons
from heliostat.control.policies import Policies
from heliostat.control.rates import Rates
from heliostat.errors import ConfigError
from heliostat.rollout import decide as rules
from heliostat.rollout.evidence import EvidenceReport
from heliostat.rollout.gathered import Gathering
from heliostat.rollout.known import Evidence
from heliostat.rollout.protocols import Plane, Versions
from heliostat.rollout.state import ModelState, RolloutState, fold
from heliostat.store.events import Event, EventLog
from heliostat.store.leases import Fence, LeaseLost, Leases
from heliostat.store.outcomes import Outcomes

LEASE = "rollout-controller"
LEASE_TTL_S = 5.0

BY_ITSELF = "controller"
"""Who did what nobody asked for, in the audit trail."""

_TOLD = frozenset(
    {"rollout_id", "version", "step", "percent", "epoch", "outcome", "because", "error"}
)
"""Fields of a recorded event that the process's own log repeats."""


def stream(model: str) -> str:
    """Name of the event stream that holds one model's deployments and rollouts."""
    return f"model/{model}"


class Controller:
    """Folds each model's events, asks `rollout.decide` and acts; safe for threads.

    It acts only while it holds the lease, and each write proves that. Everything it knows
    is in the event log. Evidence is stored with each decision: a restart loses only what
    came since, which costs time and never passes a gate.
    """

    def __init__(
        self,
        log: EventLog,
        leases: Leases,
        plane: Plane,
        versions: Versions,
        *,
        holder: str,
        clock: Callable[[], float] = time.time,
        outcomes: Outcomes | None = None,
        checks: Checks | None = None,
        hindrance: Callable[[], ConfigError | None] | None = None,
    ) -> None:
        """Hold what it acts through; nothing is read or done yet.

        Args:
            log: Where everything that happened is written, on the same clock.
            leases: Decides which controller may write.
            plane: Carries traffic.
            versions: Finds model versions.
            holder: Unique name of this process.
            clock: Seconds since 1970.
            outcomes: What units did, for A/B tests; None refuses those.
            checks: Asks what plans ask outside; None never asks, so that such a plan waits.
            hindrance: Says why no rollout may begin here now, asked at each start.
        """
        self.hindrance = hindrance
        self.log = log
        self.outcomes = outcomes
        self.checks = checks
        self.rates = Rates()
        self._comparisons = None if outcomes is None else Comparisons(outcomes)
        self.versions = versions
        self.policies = Policies(log)
        self.clock = clock
        self._leases = leases
        self._actions = Actions(self.record, self.policies, plane, versions, self.fence)
        self._holder = holder
        self._fence: Fence | None = None
        self._renewed_at = 0.0
        self._states: dict[str, ModelState] = {}
        self._gatherings: dict[str, Gathering] = {}
        self._taken_over: set[str] = set()
        self._decisions: dict[str, rules.Decision] = {}
        self._lock = threading.RLock()

    def lead(self) -> bool:
        """Take or renew the lease; on taking it, bring the last policy back to the gateways.

        Returns:
            Whether this controller may act now.
        """
        now = self.clock()
        if self._fence is not None and now - self._renewed_at < LEASE_TTL_S / 4:
            return True
        fence = self._leases.acquire(LEASE, self._holder, LEASE_TTL_S, now)
        self._renewed_at = now
        taken = fence is not None and fence != self._fence
        self._fence = fence
        if taken:
            telemetry.event("controller.leads", holder=self._holder)
            self.republish()
        return fence is not None

    @property
    def leads(self) -> bool:
        """Whether this controller held the lease when it last asked."""
        return self._fence is not None

    def fence(self) -> Fence:
        """Return the proof of holding the lease.

        Raises:
            LeaseLost: This controller does not hold it.
        """
        if self._fence is None:
            raise LeaseLost("this controller does not hold the lease")
        return self._fence

    def republish(self) -> None:
        """Hand the current policy to the plane again, in case it was lost there.

        Not before the candidates in it are up: they may have been lost together.
        """
        policy = self.policies.current()
        if policy is not None and self._taken_over.issuperset(
            part.rollout_id for part in policy.models.values() if part.rollout_id
        ):
            self._actions.republish()

    def resign(self) -> None:
        """Give the lease up, so that another controller need not wait for its end."""
        self._leases.release(LEASE, self._holder)
        self._fence = None

    def models(self) -> list[str]:
        """Names of all models that were ever deployed."""
        return [name.removeprefix("model/") for name in self.log.streams("model/")]

    def state(self, model: str) -> ModelState:
        """Return where a model stands, by all events up to now."""
        with self._lock:
            known = self._states.get(model, ModelState(model=model))
            state = fold(known, self.log.read(stream(model), after=known.version))
            self._states[model] = state
            return state

    def record(
        self, model: str, kind: str, payload: dict[str, Any], *, by: str = BY_ITSELF, **more: Any
    ) -> Event:
        """Append to a model's stream under the lease.

        Args:
            by: Who asked for it, kept with the event.

        Raises:
            LeaseLost: This controller does not lead.
            Conflict: As for `EventLog.append`.
        """
        payload = {**payload, "by": by}
        event = self.log.append(stream(model), kind, payload, fence=self.fence(), **more)
        telemetry.event(kind, model=model, **{key: payload[key] for key in payload if key in _TOLD})
        return event

    def report(self, reports: Sequence[EvidenceReport]) -> int:
        """Add gateway reports to the rollouts they belong to; returns how many were new."""
        new = 0
        for report in reports:
            asked = sum(item.requests for item in report.counts)
            self.rates.add(report.model, asked, self.clock())
            rollout = self.state(report.model).rollout
            if rollout is not None and rollout.rollout_id == report.rollout_id:
                with self._lock:
                    new += self._gathering(rollout).report(report, self.clock())
        return new

    def label(self, labels: Sequence[tuple[str, float]]) -> int:
        """Add true outcomes by request id; returns how many completed a pair."""
        with self._lock:
            now = self.clock()
            return sum(gathering.labels(labels, now) for gathering in self._gatherings.values())

    def evidence(self, rollout: RolloutState) -> Evidence | None:
        """What was gathered of a rollout in this process; None if nothing ever was."""
        with self._lock:
            gathering = self._gatherings.get(_period(rollout))
            return None if gathering is None else self._whole(rollout, gathering)

    def decision(self, rollout_id: str) -> rules.Decision | None:
        """What was last decided about a rollout in this process."""
        return self._decisions.get(rollout_id)

    def step(self, model: str) -> bool:
        """Do at most one thing for a model; returns whether anything was done.

        Raises:
            LeaseLost: Another controller leads now.
        """
        state = self.state(model)
        rollout = state.rollout
        if rollout is None:
            return state.deployment is not None and self._actions.deploy(state, self.clock())
        if state.deployment and not rollout.abort_reason and not rollout.outcome:
            self._actions.about(
                rollout,
                "abort_requested",
                because=f"version {state.deployment.version} is deployed at once",
            )
            return True
        if rollout.rollout_id not in self._taken_over:
            self._actions.bring_up(rollout)
            self._taken_over.add(rollout.rollout_id)
            self.republish()
        with self._lock:
            evidence = self._whole(rollout, self._gathering(rollout))
        if state.frozen is not None and rollout.paused is None:
            rollout = replace(rollout, paused=f"model frozen, {state.frozen}")
        decision = rules.decide(rollout, evidence, self.clock())
        self._decisions[rollout.rollout_id] = decision
        return any(
            self._actions.carry_out(state, rollout, decision, action, evidence)
            for action in decision.actions
        )

    def _whole(self, rollout: RolloutState, gathering: Gathering) -> Evidence:
        """What gateways told, together with what was asked and compared elsewhere."""
        evidence = gathering.evidence()
        if self.checks is not None and rollout.plan.checks:
            evidence = replace(evidence, checks=self.checks.results(rollout.rollout_id))
        if self._comparisons is not None and rollout.plan.comparison is not None:
            policy = self.policies.current()
            part = None if policy is None else policy.models.get(rollout.plan.model)
            owners = None if part is None or part.rollout_id is None else part.slots
            compared = self._comparisons.of(rollout, owners, self.clock())
            evidence = replace(evidence, compared=compared)
        return evidence

    def _gathering(self, rollout: RolloutState) -> Gathering:
        known = self._gatherings.get(_period(rollout))
        if known is None:
            model = rollout.plan.model
            # The last ended rollout of the model is kept until the next one for its late labels.
            for old, gathering in list(self._gatherings.items()):
                if gathering.model == model:
                    del self._gatherings[old]
            known = self._gatherings[_period(rollout)] = Gathering(
                rollout_id=rollout.rollout_id,
                model=model,
                stable=rollout.stable,
                candidate=rollout.plan.candidate,
                twin=rollout.plan.twin,
                baking=rollout.bake_epoch is not None,
                loss="log_loss" if rollout.plan.loss is None else rollout.plan.loss.of,
                earlier=rollout.evidence,
            )
        return known


def _period(rollout: RolloutState) -> str:
    """What is gathered together: before the promotion and after it are judged apart."""
    return rollout.rollout_id + ("/bake" if rollout.bake_epoch is not None else "")
