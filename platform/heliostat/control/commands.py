"""What people may ask of the controller: deploy, start a rollout, abort it; each once per key."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from heliostat.config import require_name
from heliostat.control.controller import Controller, stream
from heliostat.errors import ConfigError, Unavailable
from heliostat.rollout.plan import CanaryPlan
from heliostat.rollout.state import RolloutState
from heliostat.store.events import Conflict


class NotFound(ConfigError):
    """What is asked about does not exist."""


class Busy(ConfigError):
    """It cannot be done while something else goes on; ask again when that has ended."""


def deploy(
    controller: Controller,
    model: str,
    version: str,
    key: str | None,
    *,
    wait_s: float,
    wake: Callable[[], None],
    pause: Callable[[float], None] = time.sleep,
) -> dict[str, object]:
    """Make a version stable at once and wait until gateways answer with it.

    A running rollout of the model is aborted first.

    Raises:
        ConfigError: There is no such version, or gateways cannot load it.
        Busy: A newer deployment took its place.
        Unavailable: It did not end within `wait_s`; it goes on, and asking again with the
            same key waits for it.
    """
    require_name("model", model)
    earlier = None if key is None else controller.log.find(stream(model), key)
    if earlier is None:
        controller.versions.find(model, version)
    asked = controller.record(
        model, "deployment.requested", {"version": version}, idempotency_key=key
    )
    if asked.payload["version"] != version:
        raise ConfigError("idempotency-key", key, "was used for another version before")
    wake()
    waited = 0.0
    while waited <= wait_s:
        deployment = controller.state(model).deployment
        if deployment is None or deployment.number != asked.version:
            return _deployed(controller, model, version, asked.version)
        pause(0.05)
        waited += 0.05
    raise Unavailable("controller", f"{model} version {version} is not deployed after {wait_s:g} s")


def _deployed(controller: Controller, model: str, version: str, number: int) -> dict[str, object]:
    for event in controller.log.read(stream(model), after=number):
        if event.payload.get("number") == number:
            if event.kind == "deployment.failed":
                raise ConfigError("deployment", f"{model}@{version}", event.payload["because"])
            return {"model": model, "version": version, "epoch": event.payload["epoch"]}
    raise Busy("deployment", f"{model}@{version}", "was replaced by a newer one")


def start(controller: Controller, raw_plan: object, key: str | None) -> RolloutState:
    """Begin a rollout.

    Raises:
        ConfigError: The plan cannot be meant; the model has no stable version; the
            candidate does not exist, fails verification or is the stable version.
        Busy: The model has a rollout or a deployment under way.
    """
    plan = CanaryPlan.from_dict(raw_plan)
    model = plan.model
    if key is not None:
        earlier = controller.log.find(stream(model), key)
        if earlier is not None:
            if earlier.payload.get("plan") != plan.to_dict():
                raise ConfigError("idempotency-key", key, "was used for another plan before")
            return controller.state(model).rollouts[earlier.payload["rollout_id"]]
    state = controller.state(model)
    if state.current is not None:
        raise Busy("plan.model", model, f"must have no other rollout; {state.current} is running")
    if state.deployment is not None:
        raise Busy("plan.model", model, "must have no deployment under way")
    if state.frozen is not None:
        raise Busy("plan.model", model, f"must not be frozen; {state.frozen}")
    if state.stable is None:
        raise ConfigError(
            "plan.model", model, "must have a stable version",
            next_step="Deploy one: POST /v1/deployments",
        )  # fmt: skip
    if plan.candidate == state.stable:
        raise ConfigError(
            "plan.candidate", plan.candidate, "must not be the version that is stable already"
        )
    controller.versions.find(model, plan.candidate)
    rollout_id = next_id(model, state.rollouts)
    steps = ", ".join(f"{percent:g}" for percent in plan.steps_percent)
    payload = {
        "rollout_id": rollout_id,
        "plan": plan.to_dict(),
        "stable": state.stable,
        "because": f"version {plan.candidate} against stable {state.stable}: {steps} %",
    }
    try:
        controller.record(
            model,
            "rollout.started",
            payload,
            expected_version=state.version,
            idempotency_key=key,
        )
    except Conflict as conflict:
        raise Busy("plan.model", model, "was changed by somebody else just now") from conflict
    return controller.state(model).rollouts[rollout_id]


def abort(controller: Controller, rollout_id: str, because: str, key: str | None) -> RolloutState:
    """Ask for all traffic to go back to stable; an ended rollout is left as it is.

    Raises:
        NotFound: There is no such rollout.
    """
    rollout = find(controller, rollout_id)
    if rollout.outcome is None and rollout.abort_reason is None:
        controller.record(
            rollout.plan.model,
            "rollout.abort_requested",
            {"rollout_id": rollout.rollout_id, "because": because},
            idempotency_key=key,
        )
    return find(controller, rollout.rollout_id)


def tell(
    controller: Controller, rollout_id: str, what: str, because: str, key: str | None
) -> RolloutState:
    """Pause, resume, approve or hurry a rollout; what is so already is left as it is.

    Args:
        what: ``pause`` and ``resume`` stop and allow steps; ``approve`` allows to leave the
            present step; ``promote`` waives hold times and approvals, never a gate.
        because: The reason, for people.

    Raises:
        NotFound: There is no such rollout.
        Busy: It has ended, or has no step yet that could be approved.
    """
    rollout = find(controller, rollout_id)
    if rollout.outcome is not None:
        raise Busy("rollout", rollout.rollout_id, f"must not have ended; it was {rollout.outcome}")
    more: dict[str, object] = {}
    if what == "approve":
        if rollout.reached_step is None:
            raise Busy("rollout", rollout.rollout_id, "must have reached a step")
        more["step"] = rollout.reached_step
        done = rollout.reached_step in rollout.approved
    else:
        done = {
            "pause": rollout.paused is not None,
            "resume": rollout.paused is None,
            "promote": rollout.hurried,
        }[what]
    kinds = {
        "pause": "paused", "resume": "resumed", "approve": "approved",
        "promote": "promote_requested",
    }  # fmt: skip
    if not done:
        controller.record(
            rollout.plan.model,
            f"rollout.{kinds[what]}",
            {"rollout_id": rollout.rollout_id, "because": because, **more},
            idempotency_key=key,
        )
    return find(controller, rollout.rollout_id)


def freeze(controller: Controller, model: str, because: str | None, key: str | None) -> str | None:
    """Freeze a model with a reason, or with None thaw it; harm is still taken back meanwhile.

    Raises:
        NotFound: The model was never deployed.
    """
    if model not in controller.models():
        raise NotFound("model", model, "must have been deployed")
    if controller.state(model).frozen != because:
        kind = "model.thawed" if because is None else "model.frozen"
        controller.record(model, kind, {"because": because}, idempotency_key=key)
    return controller.state(model).frozen


def next_id(model: str, taken: Collection[str]) -> str:
    """Return the id of a model's next rollout, given those it had.

    >>> next_id("churn", ())
    'churn-1'
    >>> next_id("churn", ["churn-1", "churn-7"])
    'churn-8'
    """
    return f"{model}-{max((int(i.rpartition('-')[2]) for i in taken), default=0) + 1}"


def find(controller: Controller, rollout_id: str) -> RolloutState:
    """Return a rollout by its id, or a model's newest one by the model's name.

    Raises:
        NotFound: There is no such rollout.
    """
    model, _, number = rollout_id.rpartition("-")
    if model and number.isdigit() and model in controller.models():
        rollout = controller.state(model).rollouts.get(rollout_id)
        if rollout is not None:
            return rollout
    if rollout_id in controller.models():
        rollouts = list(controller.state(rollout_id).rollouts.values())
        if rollouts:
            return rollouts[-1]
    raise NotFound(
        "rollout",
        rollout_id,
        "must be the id of a rollout, or a model that had one; GET /v1/rollouts lists all",
    )
