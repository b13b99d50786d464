"""List, read and stop jobs: from Ray while it knows them, from the archive for ever."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from heliostat.errors import ConfigError, Unavailable
from heliostat.submit import client
from heliostat.submit.archive import JobArchive, JobRecord, ended

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient


def refresh(home: Path) -> list[JobRecord]:
    """Bring the archive up to date with Ray, logs included, and return every job.

    With Ray away the records stay as they are. A job that Ray no longer knows, because it was
    stopped or began anew, is LOST.
    """
    archive = JobArchive(home)
    found = archive.list()
    if all(record.has_ended for record in found):
        return found
    try:
        jobs = client.connect(home)
        known = {str(item.submission_id): item for item in jobs.list_jobs()}
    except (Unavailable, OSError, RuntimeError):
        return found
    for record in found:
        if not record.has_ended:
            details = known.get(record.submission_id)
            archive.save(
                replace(record, status="LOST") if details is None else ended(record, details)
            )
            _keep_log(archive, jobs, record.submission_id)
    return archive.list()


def logs(home: Path, submission_id: str) -> str:
    """Return all that a job has printed so far, as Ray has it or as it was kept.

    Raises:
        ConfigError: No such job was submitted from here.
    """
    archive = JobArchive(home)
    record = archive.get(submission_id)
    if not record.has_ended:
        with suppress(Unavailable):
            _keep_log(archive, client.connect(home), submission_id)
    path = archive.log_path(submission_id)
    return path.read_text(encoding="utf-8") if path.exists() else ""


def follow(home: Path, submission_id: str) -> int:
    """Show a job's output until it has ended and return its exit code.

    Raises:
        ConfigError: No such job was submitted from here.
        Unavailable: Ray does not answer, or lost the job.
    """
    archive = JobArchive(home)
    record = archive.get(submission_id)
    if record.has_ended:
        raise ConfigError(
            "job", submission_id, f"has ended: {record.status}",
            next_step=f"Read it with: heliostat job logs {submission_id}",
        )  # fmt: skip
    return client.follow(client.connect(home), archive, record)


def stop(home: Path, submission_id: str, *, say: Callable[[str], None]) -> None:
    """Ask Ray to stop a job and wait until it has ended.

    Raises:
        ConfigError: No such job was submitted from here.
        Unavailable: Ray does not answer.
    """
    archive = JobArchive(home)
    record = archive.get(submission_id)
    if record.has_ended:
        say(f"job {submission_id} has ended already: {record.status}")
        return
    jobs = client.connect(home)
    say(client.stop(jobs, submission_id, os.environ["RAY_ADDRESS"]))
    refresh(home)


def _keep_log(archive: JobArchive, jobs: JobSubmissionClient, submission_id: str) -> None:
    with suppress(OSError, RuntimeError):
        archive.write_log(submission_id, jobs.get_job_logs(submission_id))
