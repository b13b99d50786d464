"""Carries out one decided action: durable first, then in the world, then written down as done."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol

from heliostat import telemetry
from heliostat.control.policies import Policies, at_step, baking, only
from heliostat.errors import HeliostatError
from heliostat.rollout import decide as rules
from heliostat.rollout.known import Evidence
from heliostat.rollout.policy import ModelPolicy, Role, Variant
from heliostat.rollout.protocols import Package, Plane, Versions
from heliostat.rollout.state import ModelState, RolloutState
from heliostat.store.events import Conflict
from heliostat.store.leases import Fence, LeaseLost

DEPLOYMENT_LIMIT_S = 90.0
"""Time for gateways to load a deployed version; then the version before comes back."""


class Record(Protocol):
    """Appends to a model's stream under the lease."""

    def __call__(self, model: str, kind: str, payload: dict[str, Any], **more: Any) -> object:
        """See `EventLog.append`."""
        ...


class Actions:
    """Everything that a controller does outside its event log; repeating it is harmless."""

    def __init__(
        self,
        record: Record,
        policies: Policies,
        plane: Plane,
        versions: Versions,
        fence: Callable[[], Fence],
    ) -> None:
        """Hold what it acts through; nothing is done yet."""
        self._record = record
        self._policies = policies
        self._plane = plane
        self._versions = versions
        self._fence = fence

    def carry_out(
        self,
        state: ModelState,
        rollout: RolloutState,
        decision: rules.Decision,
        action: rules.Action,
        evidence: Evidence,
    ) -> bool:
        """Do it and write it down; returns whether the rollout has moved on.

        A failure out there is written down once and tried again at the next call.

        Raises:
            LeaseLost: Another controller leads now.
        """
        try:
            return self._act(state, rollout, decision, action, evidence)
        except Conflict:
            return True  # something else happened to the model first: decide again
        except LeaseLost:
            raise
        except Exception as problem:  # noqa: BLE001 - whatever fails out there is tried again
            name, error = type(action).__name__, _words(problem)
            starting = isinstance(action, rules.StartCandidate)
            if starting or rollout.last_failure != error:
                self.about(rollout, "action_failed", action=name, error=error)
            return False

    def bring_up(self, rollout: RolloutState) -> None:
        """Start a candidate again that may have gone with the cluster while nobody looked.

        If that fails, gateways answer from stable and count it against the candidate.
        """
        known = rollout.candidate
        if known is None or rollout.abort_reason or rollout.phase not in ("moving", "running"):
            return
        try:
            for variant in (known, rollout.twin):
                if variant is not None:
                    package = Package(path=variant.package_path, digest=variant.package_digest)
                    self._plane.start_variant(rollout.plan.model, variant.version, package)
        except Exception as problem:  # noqa: BLE001 - the evidence will tell
            self.about(rollout, "action_failed", action="BringUp", error=_words(problem))

    def about(
        self, rollout: RolloutState, what: str, expected: int | None = None, /, **payload: Any
    ) -> None:
        """Record an event of the rollout."""
        self._record(
            rollout.plan.model,
            f"rollout.{what}",
            {"rollout_id": rollout.rollout_id, **payload},
            expected_version=expected,
        )

    def republish(self) -> None:
        """Hand the current policy to the gateways once more."""
        policy = self._policies.current()
        if policy is not None:
            self._plane.publish(policy)

    def deploy(self, state: ModelState, now: float) -> bool:
        """Go on with the model's pending deployment; returns whether it has ended.

        Raises:
            LeaseLost: Another controller leads now.
        """
        assert state.deployment is not None
        model, version = state.model, state.deployment.version
        key = f"{model}/deployment/{state.deployment.number}"
        told = {"number": state.deployment.number, "version": version}
        try:
            if now - state.deployment.requested_at > DEPLOYMENT_LIMIT_S:
                raise HeliostatError(f"gateways did not load it within {DEPLOYMENT_LIMIT_S:g} s")
            package = self._versions.find(model, version)
            before = self._policy(model)
            epoch = self._publish(only(model, _stable(version, package), before), key)
            if not self._plane.ready(model, version):
                return False
        except LeaseLost:
            raise
        except Exception as problem:  # noqa: BLE001 - told to whoever asked for it
            self._bring_back(state, f"{key}/back")
            self._record(model, "deployment.failed", {**told, "because": _words(problem)})
            return True
        self._record(model, "deployment.done", {**told, "epoch": epoch})
        self._announce(model, version, "stable")
        return True

    def _act(
        self,
        state: ModelState,
        rollout: RolloutState,
        decision: rules.Decision,
        action: rules.Action,
        evidence: Evidence,
    ) -> bool:
        plan = rollout.plan
        told = {
            "because": decision.because,
            "decided_at": decision.at,
            "verdicts": [verdict.to_dict() for verdict in decision.verdicts],
            "evidence": evidence.to_dict(),
        }
        match action:
            case rules.StartCandidate():
                variant = self._start(rollout, plan.candidate, "candidate")
                words, twin = f"version {variant.version} answers at {variant.url}", None
                if plan.twin:
                    twin = self._start(rollout, rollout.stable, "baseline")
                    words += f", and a twin of version {twin.version} at {twin.url}"
                self.about(
                    rollout,
                    "candidate_started",
                    variant=asdict(variant),
                    twin=None if twin is None else asdict(twin),
                    because=words,
                )
                self._announce(plan.model, plan.candidate, "candidate")
            case rules.DecideStep(step=step):
                percent = plan.steps_percent[step]
                self.about(
                    rollout, "step_decided", state.version, step=step, percent=percent, **told
                )
            case rules.PublishStep(step=step):
                policy = at_step(_given(self._policy(plan.model)), rollout, step)
                epoch = self._publish(policy, f"{rollout.rollout_id}/step/{step}")
                percent = plan.steps_percent[step]
                self.about(
                    rollout,
                    "step_reached",
                    step=step,
                    percent=percent,
                    epoch=epoch,
                    because=f"version {plan.candidate} has {percent:g} % of the units",
                )
            case rules.TakeLook(look=look):
                self.about(rollout, "looked", state.version, look=look.to_dict(), **told)
            case rules.DecideBake():
                self.about(rollout, "bake_decided", state.version, **told)
            case rules.PublishBake():
                return self._bake(rollout)
            case rules.DecideOutcome(outcome=outcome):
                self.about(rollout, "outcome_decided", state.version, outcome=outcome, **told)
            case rules.MoveTraffic(version=version):
                return self._move(rollout, version)
            case rules.StopCandidate():
                self._plane.stop_variant(plan.model, plan.candidate)
                if rollout.twin is not None:
                    self._plane.stop_variant(plan.model, rollout.twin.version)
                self.about(rollout, "ended", outcome=rollout.outcome, because=rollout.because)
                self._announce(plan.model, rollout.survivor, "stable")
        return True

    def _move(self, rollout: RolloutState, version: str) -> bool:
        """Give a version all traffic; not done before gateways answer with it in process."""
        model = rollout.plan.model
        before = _given(self._policy(model))
        chosen = next(item for item in before.variants if item.version == version)
        epoch = self._publish(only(model, chosen, before), f"{rollout.rollout_id}/end")
        if not self._plane.ready(model, version):
            return False
        words = f"version {version} answers everything, in the gateway's own process"
        self.about(rollout, "traffic_moved", version=version, epoch=epoch, because=words)
        return True

    def _bake(self, rollout: RolloutState) -> bool:
        """Make the candidate stable, the version before still loaded beside it."""
        plan = rollout.plan
        policy = baking(_given(self._policy(plan.model)), rollout)
        epoch = self._publish(policy, f"{rollout.rollout_id}/bake")
        if not self._plane.ready(plan.model, plan.candidate):
            return False
        words = (
            f"version {plan.candidate} is stable on trial for {plan.bake_s:g} s; "
            f"version {rollout.stable} keeps {plan.bake_percent:g} % of the units"
        )
        self.about(rollout, "bake_reached", epoch=epoch, because=words)
        return True

    def _start(self, rollout: RolloutState, version: str, role: Role) -> Variant:
        model = rollout.plan.model
        package = self._versions.find(model, version)
        url = self._plane.start_variant(model, version, package)
        return Variant(
            version=version,
            role=role,
            placement="isolated",
            package_path=package.path,
            package_digest=package.digest,
            url=url,
        )

    def _bring_back(self, state: ModelState, key: str) -> None:
        """Undo a deployment that gateways could not load."""
        now = self._policy(state.model)
        if now is None or state.stable is None or state.stable == now.stable.version:
            return
        package = self._versions.find(state.model, state.stable)
        self._publish(only(state.model, _stable(state.stable, package), now), key)

    def _policy(self, model: str) -> ModelPolicy | None:
        policy = self._policies.current()
        return None if policy is None else policy.models.get(model)

    def _publish(self, model: ModelPolicy, key: str) -> int:
        """Write the policy down, then hand it to the gateways: never the other way round."""
        epoch = self._policies.change(model, key, self._fence())
        self.republish()
        return epoch

    def _announce(self, model: str, version: str, role: Role) -> None:
        """Tell the registry what a version answers as, off the way: it may be down."""

        def tell() -> None:
            try:
                self._versions.announce(model, version, role)
            except Exception as problem:  # noqa: BLE001 - only people's tools miss it
                telemetry.event(
                    f"{role}.unannounced", model=model, version=version, problem=_words(problem)
                )

        threading.Thread(target=tell, name=f"announce-{role}", daemon=True).start()


def _given(policy: ModelPolicy | None) -> ModelPolicy:
    """A model with a rollout was deployed before, so it has a policy."""
    if policy is None:
        raise HeliostatError("a rollout's model has no policy")
    return policy


def _stable(version: str, package: Package) -> Variant:
    return Variant(
        version=version,
        role="stable",
        placement="in_process",
        package_path=package.path,
        package_digest=package.digest,
    )


def _words(problem: Exception) -> str:
    return str(problem)[:500] or type(problem).__name__
