"""The durable sequence of policies: each change of traffic is one event, its version the epoch."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from heliostat.rollout.decide import twin_share
from heliostat.rollout.policy import NUM_SLOTS, ModelPolicy, Policy, Variant
from heliostat.rollout.state import RolloutState
from heliostat.stats import slots
from heliostat.store.events import Conflict, EventLog
from heliostat.store.leases import Fence

STREAM = "policy"


class Policies:
    """Reads and writes policies in the event log; epochs rise across restarts without gaps."""

    def __init__(self, log: EventLog) -> None:
        """Use the log; nothing is read yet."""
        self._log = log

    def current(self) -> Policy | None:
        """Return the newest policy, or None before the first one."""
        event = self._log.last(STREAM)
        return None if event is None else Policy.from_dict(event.payload)

    def change(self, model: ModelPolicy, key: str, fence: Fence | None) -> int:
        """Replace one model's part of the policy and return the epoch from which it holds.

        Args:
            model: The new part.
            key: Names the change; making it again changes nothing and returns its epoch.
            fence: Proof of the writer's lease.
        """
        while True:
            last = self._log.last(STREAM)
            models = {} if last is None else dict(Policy.from_dict(last.payload).models)
            epoch = 1 if last is None else last.version + 1
            policy = Policy(epoch=epoch, models={**models, model.model: model})
            with contextlib.suppress(Conflict):  # another model changed meanwhile
                event = self._log.append(
                    STREAM,
                    "policy.changed",
                    policy.to_dict(),
                    expected_version=epoch - 1,
                    idempotency_key=key,
                    fence=fence,
                )
                return event.version


def only(model: str, variant: Variant, before: ModelPolicy | None) -> ModelPolicy:
    """The policy under which one version answers everything, in the gateway's own process."""
    stable = Variant(
        version=variant.version,
        role="stable",
        placement="in_process",
        package_path=variant.package_path,
        package_digest=variant.package_digest,
    )
    policy = ModelPolicy(model=model, variants=(stable,), slots=bytes(NUM_SLOTS))
    return policy if before is None else replace(policy, deadline_s=before.deadline_s)


def at_step(now: ModelPolicy, rollout: RolloutState, step: int) -> ModelPolicy:
    """The policy of a rollout's step: from the present slots, as few as possible move."""
    assert rollout.candidate is not None
    plan = rollout.plan
    share = plan.steps_percent[step] / 100
    shares, variants = [1 - share, share], [now.stable, rollout.candidate]
    if rollout.twin is not None:
        beside = twin_share(share)
        shares, variants = [1 - share - beside, share, beside], [*variants, rollout.twin]
    owners = slots.assign(now.slots, shares, salt=_salt(rollout))
    return ModelPolicy(
        model=plan.model,
        variants=tuple(variants),
        slots=owners,
        rollout_id=rollout.rollout_id,
        paired=plan.paired,
        deadline_s=now.deadline_s,
    )


def baking(now: ModelPolicy, rollout: RolloutState) -> ModelPolicy:
    """The policy after the promotion: the candidate is stable, the version before is at hand.

    It keeps the units that would have moved last, so that no unit goes there and back.
    """
    assert rollout.candidate is not None
    plan = rollout.plan
    kept = plan.bake_percent / 100
    owners = slots.assign(bytes([1]) * NUM_SLOTS, [kept, 1 - kept], salt=_salt(rollout))
    return ModelPolicy(
        model=plan.model,
        variants=(
            replace(rollout.candidate, role="stable", placement="in_process", url=None),
            replace(now.stable, role="previous"),
        ),
        slots=owners.translate(bytes([1, 0, *range(2, 256)])),
        rollout_id=rollout.rollout_id,
        paired=plan.paired,
        deadline_s=now.deadline_s,
    )


def _salt(rollout: RolloutState) -> str:
    return rollout.plan.salt or rollout.rollout_id
