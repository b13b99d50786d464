"""What is kept of every job on local disk: its metadata and its log, whatever becomes of Ray."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from heliostat.config import require
from heliostat.errors import nearest

ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED", "LOST"})


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRecord:
    """One job in plain values."""

    submission_id: str
    entrypoint: str
    revision: str
    """Code that was sent: a commit, or a digest of files."""
    digest: str
    num_files: int
    size_bytes: int
    """Of the files that were sent, before they were packed."""
    submitted_at: str
    """ISO 8601, UTC."""
    status: str = "PENDING"
    """Ray's word for it; LOST where Ray ended before the job did."""
    exit_code: int | None = None
    message: str | None = None
    ended_at: str | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the status will not change any more."""
        return self.status in ENDED


class JobArchive:
    """Records and logs of jobs, one folder each. Reading and writing need no Ray."""

    def __init__(self, home_root: Path) -> None:
        """Use the state folder of a platform; nothing is made yet."""
        self._folder = home_root / "jobs"

    def save(self, record: JobRecord) -> None:
        """Write a record, whole or not at all."""
        folder = self._folder / record.submission_id
        folder.mkdir(parents=True, exist_ok=True)
        scratch = folder / "job.json.part"
        scratch.write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")
        scratch.replace(folder / "job.json")

    def get(self, submission_id: str) -> JobRecord:
        """Read one record.

        Raises:
            ConfigError: No such job was submitted from here.
        """
        known = [record.submission_id for record in self.list()]
        require(
            submission_id in known, "job", submission_id, "must be one that `job list` shows",
            breaks=nearest(submission_id, known),
        )  # fmt: skip
        return self._read(self._folder / submission_id / "job.json")

    def list(self) -> list[JobRecord]:
        """All records, the oldest first."""
        found = [self._read(path) for path in self._folder.glob("*/job.json")]
        return sorted(found, key=lambda record: (record.submitted_at, record.submission_id))

    def append_log(self, submission_id: str, text: str) -> None:
        """Add what a job has just printed."""
        if text:
            with self.log_path(submission_id).open("a", encoding="utf-8") as file:
                file.write(text)

    def write_log(self, submission_id: str, text: str) -> None:
        """Put a job's whole log in the place of what was there, unless that is longer."""
        path = self.log_path(submission_id)
        if path.exists() and path.stat().st_size > len(text.encode()):
            return
        scratch = path.with_suffix(".part")
        with scratch.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)

    def log_path(self, submission_id: str) -> Path:
        """Where a job's log is kept; perhaps not there yet."""
        return self._folder / submission_id / "log.txt"

    @staticmethod
    def _read(path: Path) -> JobRecord:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return JobRecord(**raw)


def ended(record: JobRecord, details: Any) -> JobRecord:
    """Bring a record to what Ray says of its job.

    Args:
        record: As it was stored.
        details: Ray's `JobDetails`.
    """
    stamp = None
    if details.end_time:
        stamp = datetime.fromtimestamp(details.end_time / 1000, UTC).isoformat(timespec="seconds")
    return replace(
        record,
        status=details.status.value,
        exit_code=details.driver_exit_code,
        message=" ".join((details.message or "").split())[:800] or None,
        ended_at=stamp,
    )
