"""Where a gateway's policy comes from: the plane actor, and a copy on the local disk."""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
from pathlib import Path
from typing import Protocol

from heliostat import telemetry
from heliostat.errors import HeliostatError
from heliostat.rollout.policy import NUM_SLOTS, Policy


class PolicySource(Protocol):
    """Gives newer policies; `heliostat.serving.plane.PlaneSource` is the real one."""

    async def next(self, after_epoch: int) -> Policy | None:
        """Wait for a policy with a higher epoch; None if none came for some seconds.

        Calling it also says that `after_epoch` is what this gateway obeys now.

        Raises:
            Unavailable: The control plane cannot be reached.
        """
        ...


def save(path: Path, policy: Policy) -> None:
    """Keep the policy for a start without a control plane; a failure is logged, not raised."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(policy.to_dict()), encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        telemetry.event("policy.not_saved", path=str(path), problem=str(error))


def load_stable_only(path: Path) -> Policy | None:
    """Read the kept policy, reduced to the stable versions; None if there is none to read.

    Without a control plane nobody can say that a version on trial was not rolled back
    meanwhile, so it gets no request.
    """
    try:
        policy = Policy.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, HeliostatError) as error:
        telemetry.event("policy.unreadable", path=str(path), problem=str(error)[:300])
        return None
    return stable_only(policy)


def stable_only(policy: Policy) -> Policy:
    """Give every slot of every model to its stable version."""
    return Policy(
        epoch=policy.epoch,
        models={
            name: dataclasses.replace(
                model,
                variants=model.variants[:1],
                slots=bytes(NUM_SLOTS),
                rollout_id=None,
                paired=False,
            )
            for name, model in policy.models.items()
        },
    )
