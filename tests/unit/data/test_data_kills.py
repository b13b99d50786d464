from __future__ import annotations

import pytest

from tests.bench.table_kills import kill_rounds


@pytest.mark.parametrize("operation", ["merge", "optimize"])
def test_a_killed_writer_leaves_a_whole_version_and_its_next_run_cleans_up(
    operation: str, child_environment: dict[str, str]
) -> None:
    """SIGKILL at random moments; `make prove-data` does it 20 times, and for ingest too."""
    kills = kill_rounds(operation, rounds=2, seed=1, environment=child_environment)

    assert (kills.torn_reads, kills.files_left, kills.wrong_after_retry) == (0, 0, 0)
    assert kills.reads > 0
    assert kills.killed_before_commit + kills.killed_after_commit + kills.ended_before_kill == 2
