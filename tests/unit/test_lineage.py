"""Stages leave a trail of OpenLineage events."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from heliostat.lineage import Lineage, Node, run_uuid


def test_a_stage_writes_its_start_and_its_end_with_versions(tmp_path: Path) -> None:
    """Inputs and outputs carry the version that was read or made."""
    table = Node(kind="table", name="rows", version="3")
    model = Node(kind="model", name="tiny", version="1")
    with Lineage(tmp_path).stage("train", "run-1", [table]) as outputs:
        outputs.append(model)
    with pytest.raises(ZeroDivisionError), Lineage(tmp_path).stage("train", "run-2"):
        raise ZeroDivisionError

    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    seen = [(event["eventType"], event["run"]["runId"]) for event in events]
    first, second = run_uuid("train", "run-1"), run_uuid("train", "run-2")
    assert seen == [("START", first), ("COMPLETE", first), ("START", second), ("FAIL", second)]
    (read,), (made,) = events[1]["inputs"], events[1]["outputs"]
    assert (read["namespace"], read["name"]) == ("heliostat/table", "rows")
    assert read["facets"]["version"]["datasetVersion"] == "3"
    assert (made["namespace"], made["name"]) == ("heliostat/model", "tiny")
    assert made["facets"]["version"]["datasetVersion"] == "1"
