"""MLflow runs that end, whatever becomes of the process that began them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from heliostat.errors import Unavailable
from heliostat.registry.tracking import Status, Tracking, is_stop
from heliostat.training.warden import TAG, Warden


@contextmanager
def tracked(
    tracking: Tracking,
    experiment: str,
    name: str,
    tags: Mapping[str, str],
    storage: Path,
    *,
    again: str | None = None,
    token: str | None = None,
) -> Iterator[str]:
    """Start a run and end it however the block is left, or the process dies.

    FINISHED after a plain end, KILLED after an interrupt or when the process was killed, FAILED
    after any other error. If MLflow is away at that moment, the run ends once it is back.

    Args:
        tracking: Where.
        experiment: Made if needed.
        name: Of the run.
        tags: Of the run.
        storage: The `storage_path` of `fit`; points spooled there are sent before the end.
        again: A run of an earlier try that goes on instead of a new one.
        token: Further RUNNING runs with this value of `TAG` end with this process too.

    Raises:
        Unavailable: MLflow does not answer at the beginning or at a plain end.
    """
    token = token or uuid.uuid4().hex
    # Before the run is there, so that no kill finds it without a warden.
    with Warden(tracking, token, storage) as warden:
        if again is None:
            run_id = tracking.start_run(experiment, name, {**tags, TAG: token})
        else:
            run_id = again
            tracking.set_tags(run_id, {**tags, TAG: token})
            tracking.reopen(run_id)
        try:
            yield run_id
        except BaseException as error:
            with suppress(Unavailable):
                if is_stop(error):
                    # Workers are still there: what they write until they go is the warden's.
                    _end(tracking, run_id, "KILLED", warden)
                else:
                    _end(tracking, run_id, "FAILED", warden)
                    warden.tell("done")
            raise
        _end(tracking, run_id, "FINISHED", warden)
        warden.tell("done")


def _end(tracking: Tracking, run_id: str, status: Status, warden: Warden) -> None:
    warden.tell(status)
    tracking.finish(run_id, status)
