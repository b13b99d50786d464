"""A stage is reused only when code, inputs and outputs are what they were."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from heliostat.data.origins import files_digest
from heliostat.pipeline.progress import Reporter
from heliostat.pipeline.stages import Result, Stages


class _Kept:
    """Results in memory."""

    def __init__(self) -> None:
        self.results: dict[str, Result] = {}

    def get(self, key: str) -> Result | None:
        return self.results.get(key)

    def put(self, key: str, result: Result, now: datetime) -> None:
        assert now.tzinfo is not None
        self.results[key] = result


def _stages(out: io.StringIO) -> Stages:
    return Stages(results=_Kept(), reporter=Reporter(out), code="c0de")


def test_a_stage_with_equal_inputs_is_reused_and_says_so() -> None:
    """The second run returns the stored result and does no work."""
    out, worked = io.StringIO(), []
    stages = _stages(out)

    for _ in range(2):
        result = stages.run(
            "ingest",
            {"rows": 1},
            lambda key: worked.append(key) or {"version": 7},  # type: ignore[func-returns-value]
            still_there=lambda _: True,
        )

    assert result == {"version": 7}
    assert len(worked) == 1
    assert "[ingest] reused: code, recipe and inputs are unchanged" in out.getvalue()


def test_changed_code_inputs_or_lost_outputs_make_it_run_again() -> None:
    """Each of the three alone is a reason; the same work keeps the same key."""
    worked: list[str] = []
    stages = _stages(io.StringIO())

    def run(stages: Stages, rows: int, *, there: bool = True) -> None:
        stages.run(
            "ingest",
            {"rows": rows},
            lambda key: worked.append(key) or {},  # type: ignore[func-returns-value]
            still_there=lambda _: there,
        )

    run(stages, 1)
    run(stages, 2)
    run(replace(stages, code="other"), 1)
    run(stages, 1, there=False)

    assert len(worked) == 4
    assert len(set(worked)) == 3
    assert worked[0] == worked[3]


def test_files_are_named_by_content_and_not_by_place(tmp_path: Path) -> None:
    """The same bytes elsewhere are the same input; a missing file is none."""
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / "two").write_bytes(b"1")

    assert files_digest([str(tmp_path / "one")]) == files_digest([str(tmp_path / "two")])
    assert files_digest([str(tmp_path / "none")]) == ""
