"""Each fault of the serving chain once, under 3,000 requests: the small sister of `make prove-serving`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.fault_kinds import ALL, REPORTED

PROMISED = [name for name in ALL if name not in REPORTED]


@pytest.mark.proof
@pytest.mark.timeout(900)
def test_no_promised_fault_costs_a_request(
    child_environment: dict[str, str], repository: Path, tmp_path: Path
) -> None:
    """The client's ledger counts, at a rate that leaves the machine room for the faults."""
    result = tmp_path / "faults.json"
    subprocess.run(
        [
            sys.executable, "-m", "tests.bench.run", "tests.bench.faults", "--requests", "3000",
            "--faults", "2", "--rate", "100", "--only", ",".join(PROMISED), "--to", str(result),
        ],
        cwd=repository, env={**child_environment, "RAY_AUTH_MODE": "disabled"}, check=True, timeout=880,
    )  # fmt: skip
    runs = json.loads(result.read_text())

    assert {name: run["failed"] for name, run in runs.items()} == dict.fromkeys(PROMISED, 0)
    assert {name: run["misassigned"] for name, run in runs.items()} == dict.fromkeys(PROMISED, 0)
    assert all(run["sent"] >= 3_000 and run["faults"] >= 2 for run in runs.values())
