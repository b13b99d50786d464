"""What people may ask of the controller: deploy, start a rollout, abort it; each once per key."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

from heliostat.config import require_name
from heliostat.control.controller import Controller, stream
from heliostat.errors import ConfigError, Unavailable, nearest
from heliostat.rollout import forecast
from heliostat.rollout.plan import RolloutPlan
from heliostat.rollout.state import RolloutState
from heliostat.store.events import Conflict

UNKNOWN = "anyone"
"""Who asked, where no keys are asked for."""

RETURN_WINDOW_S = 7 * 86_400.0
"""A version that was stable within so long may become so again without steps."""


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
    by: str = UNKNOWN,
    because: str | None = None,
    is_return: bool = False,
) -> dict[str, object]:
    """Make a version stable at once and wait until gateways answer with it.

    A running rollout of the model is aborted first.

    Args:
        by: Who asks for it.
        because: The reason, for people.
        is_return: Whether the version that is stable now is left because it is not good.

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
    told = {"version": version, "because": because, "is_return": is_return}
    asked = controller.record(model, "deployment.requested", told, idempotency_key=key, by=by)
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


def go_back(
    controller: Controller,
    model: str,
    key: str | None,
    *,
    because: str,
    by: str,
    wait_s: float,
    wake: Callable[[], None],
    pause: Callable[[float], None] = time.sleep,
    window_s: float = RETURN_WINDOW_S,
) -> dict[str, object]:
    """Make the last good version stable again, without steps.

    That is the newest one that was stable before and that nobody went back from, if it was
    left within the window: it has proven itself under traffic that is still like today's.

    Raises:
        NotFound: The model was never deployed.
        ConfigError: There is no such version, or it cannot be found or loaded any more.
    """
    if model not in controller.models():
        raise NotFound("model", model, "must have been deployed")
    state, now = controller.state(model), controller.clock()
    if state.rollout is not None and state.rollout.bake_decided and state.stable is not None:
        version = state.stable  # the promotion is not final yet: it is taken back
    else:
        bad = {past.version for past in state.past if not past.is_good} | {state.stable}
        good = [past for past in state.past if past.version not in bad]
        if not good or now - good[-1].until > window_s:
            raise ConfigError(
                "model", model,
                f"has no good version that was stable within {window_s / 86_400:g} days",
                next_step="Deploy one: POST /v1/deployments",
            )  # fmt: skip
        version = good[-1].version
    return deploy(
        controller, model, version, key,
        wait_s=wait_s, wake=wake, pause=pause, by=by, because=because, is_return=True,
    )  # fmt: skip


def start(
    controller: Controller, raw_plan: object, key: str | None, by: str = UNKNOWN
) -> RolloutState:
    """Begin a rollout.

    What the plan will not reach at the present traffic is a warning in the event, no refusal.

    Raises:
        ConfigError: The plan cannot be meant; the model has no stable version; the
            candidate does not exist, fails verification or is the stable version; an A/B
            test compares a metric that nobody has reported; the state is one file, and Ray has
            several nodes.
        Busy: The model has a rollout or a deployment under way.
    """
    plan = RolloutPlan.from_dict(raw_plan)
    model = plan.model
    if key is not None:
        earlier = controller.log.find(stream(model), key)
        if earlier is not None:
            if earlier.payload.get("plan") != plan.to_dict():
                raise ConfigError("idempotency-key", key, "was used for another plan before")
            return controller.state(model).rollouts[earlier.payload["rollout_id"]]
    if controller.hindrance is not None and (refusal := controller.hindrance()) is not None:
        raise refusal
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
    if plan.comparison is not None:
        _require_reported(controller, model, plan.comparison.metric)
    rate = controller.rates.per_s(model, controller.clock())
    rollout_id = next_id(model, state.rollouts)
    payload = {
        "rollout_id": rollout_id,
        "plan": plan.to_dict(),
        "stable": state.stable,
        "because": f"version {plan.candidate} against stable {state.stable}: {_way(plan)}",
        "requests_per_s": None if rate is None else round(rate, 3),
        "warnings": forecast.warnings(plan, rate) if rate else [],
    }
    try:
        controller.record(
            model,
            "rollout.started",
            payload,
            expected_version=state.version,
            idempotency_key=key,
            by=by,
        )
    except Conflict as conflict:
        raise Busy("plan.model", model, "was changed by somebody else just now") from conflict
    return controller.state(model).rollouts[rollout_id]


def _require_reported(controller: Controller, model: str, metric: str) -> None:
    known = [] if controller.outcomes is None else controller.outcomes.metrics(model)
    if metric not in known:
        raise ConfigError(
            "plan.comparison.metric", metric, "nobody has reported it",
            breaks=nearest(metric, known) if known else "no metric was reported for this model",
            next_step="Report outcomes first: POST /v1/outcomes",
        )  # fmt: skip


def _way(plan: RolloutPlan) -> str:
    steps = ", ".join(f"{percent:g}" for percent in plan.steps_percent)
    bake = f"then {plan.bake_s:g} s of bake" if plan.bake_s else ""
    match plan.kind:
        case "shadow":
            return "mirrored only"
        case "blue_green":
            return f"mirrored, {bake}"
        case "ab":
            return f"compared at {steps} %"
    return f"{steps} %, {bake}" if bake else f"{steps} %"


def abort(
    controller: Controller,
    rollout_id: str,
    because: str,
    key: str | None,
    by: str = UNKNOWN,
) -> RolloutState:
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
            by=by,
        )
    return find(controller, rollout.rollout_id)


def tell(
    controller: Controller,
    rollout_id: str,
    what: str,
    because: str,
    key: str | None,
    by: str = UNKNOWN,
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
            by=by,
        )
    return find(controller, rollout.rollout_id)


def freeze(
    controller: Controller,
    model: str,
    because: str | None,
    key: str | None,
    by: str = UNKNOWN,
) -> str | None:
    """Freeze a model with a reason, or with None thaw it; harm is still taken back meanwhile.

    Raises:
        NotFound: The model was never deployed.
    """
    if model not in controller.models():
        raise NotFound("model", model, "must have been deployed")
    if controller.state(model).frozen != because:
        kind = "model.thawed" if because is None else "model.frozen"
        controller.record(model, kind, {"because": because}, idempotency_key=key, by=by)
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
