"""Placement groups whose makers have died: Ray keeps them, and their CPUs, until the job ends.

Ray Train cleans up after a controller that was killed by asking Ray's dashboard whether it is
alive, once a second, for groups whose workers had started. A trial that a scheduler ends leaves
such a group each time; without a dashboard, or with workers still starting, nobody removes it, and
the search waits for CPUs that nobody uses.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

_POLL_S = 0.2


def remove_orphans() -> int:
    """Remove this job's placement groups whose makers are dead; return how many there were."""
    from ray.util.placement_group import PlacementGroup, remove_placement_group

    orphans = [group_id for group_id, maker_id in _groups() if not _is_alive(maker_id)]
    for group_id in orphans:
        remove_placement_group(PlacementGroup(group_id))
    return len(orphans)


def present() -> set[str]:
    """Ids of the placement groups that actors of this job have made."""
    return {group_id.hex() for group_id, _ in _groups()}


def wait_until_gone(others: set[str], patience_s: float) -> bool:
    """Remove orphans until no groups but `others` are left; return whether that came in time."""
    until_s = time.monotonic() + patience_s
    while True:
        remove_orphans()
        if present() <= others:
            return True
        if time.monotonic() >= until_s:
            return False
        time.sleep(_POLL_S)


def _groups() -> Iterator[tuple[Any, str]]:
    """Id and maker of each group that is there. No public call names the maker."""
    import ray
    from ray._private import state
    from ray.core.generated import gcs_pb2

    table: Any = gcs_pb2.PlacementGroupTableData  # type: ignore[attr-defined]
    job_id = ray.get_runtime_context().get_job_id()
    for content in state.state._connect_and_get_accessor().get_placement_group_table():
        group = table.FromString(content)
        if group.state == table.REMOVED or group.is_detached:
            continue
        # Groups of the driver, Tune's own among them, have no actor: a number of ones.
        maker = ray.ActorID(group.creator_actor_id)
        if not maker.is_nil() and group.creator_job_id.hex() == job_id:
            yield ray.PlacementGroupID(group.placement_group_id), maker.hex()


def _is_alive(actor_id: str) -> bool:
    from ray._private import state

    # Ray forgets an actor long after its death.
    return bool(state.actors(actor_id).get("State", "DEAD") != "DEAD")
