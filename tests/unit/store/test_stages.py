from __future__ import annotations

from datetime import UTC, datetime

from heliostat.store.stages import StageResults

NOW = datetime(2026, 11, 23, tzinfo=UTC)


def test_a_result_is_found_again_by_another_process_handle(tmp_path):
    """The second run of a pipeline is a new process."""
    StageResults(tmp_path / "state.db").put("ingest-1", {"rows": 3, "names": ["a"]}, NOW)

    again = StageResults(tmp_path / "state.db")

    assert again.get("ingest-1") == {"rows": 3, "names": ["a"]}
    assert again.get("ingest-2") is None


def test_a_later_result_replaces_the_earlier_one(tmp_path):
    """A stage that was repeated by hand tells its last result."""
    results = StageResults(tmp_path / "state.db")
    results.put("k", {"n": 1}, NOW)
    results.put("k", {"n": 2}, NOW)

    assert results.get("k") == {"n": 2}
