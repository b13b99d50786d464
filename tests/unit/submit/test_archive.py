from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from heliostat.errors import ConfigError
from heliostat.submit import jobs
from heliostat.submit.archive import JobArchive, JobRecord, ended


def _record(name: str, at: str = "2024-01-01T00:00:00+00:00") -> JobRecord:
    return JobRecord(
        submission_id=name, entrypoint="python jobs/a.py", revision="abc", digest="d", num_files=3,
        size_bytes=10, submitted_at=at,
    )  # fmt: skip


def test_jobs_and_their_logs_are_read_without_ray(tmp_path: Path) -> None:
    """No platform is up here: what was kept is all there is, and it is enough."""
    archive = JobArchive(tmp_path)
    archive.save(_record("late", at="2024-01-02T00:00:00+00:00"))
    archive.save(replace(_record("early"), status="FAILED", exit_code=3))
    archive.append_log("early", "one\n")
    archive.append_log("early", "two\n")

    found = jobs.refresh(tmp_path)

    assert [(item.submission_id, item.status, item.exit_code) for item in found] == [
        ("early", "FAILED", 3), ("late", "PENDING", None),
    ]  # fmt: skip
    assert jobs.logs(tmp_path, "early") == "one\ntwo\n"
    assert jobs.logs(tmp_path, "late") == ""
    with pytest.raises(ConfigError, match="job = 'eerly': must be one that `job list` shows"):
        jobs.logs(tmp_path, "eerly")


def test_a_longer_log_is_never_replaced_by_a_shorter_one(tmp_path: Path) -> None:
    """A head that began anew knows less than what was kept."""
    archive = JobArchive(tmp_path)
    archive.save(_record("x"))
    archive.append_log("x", "one\ntwo\n")
    archive.write_log("x", "one\n")
    assert archive.log_path("x").read_text() == "one\ntwo\n"
    archive.write_log("x", "one\ntwo\nthree\n")
    assert archive.log_path("x").read_text() == "one\ntwo\nthree\n"


def test_a_record_takes_over_how_its_job_ended(tmp_path: Path) -> None:
    """Status, the driver's own exit code, Ray's words and the time."""
    details: Any = SimpleNamespace(
        status=SimpleNamespace(value="FAILED"), driver_exit_code=3, message="a\n b",
        end_time=1_704_067_200_000,
    )  # fmt: skip
    record = ended(_record("x"), details)
    assert (record.status, record.exit_code, record.message) == ("FAILED", 3, "a b")
    assert record.ended_at == "2024-01-01T00:00:00+00:00"
    assert record.has_ended
