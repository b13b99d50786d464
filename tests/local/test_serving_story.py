"""A rollout under load on a real Ray Serve with its HAProxy ingress."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from heliostat.testing.ports import free_ports

RATE_PER_S = 60
STEP_S = 3


@pytest.fixture(scope="module")
def story(child_environment: dict[str, str], repository: Path) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="hs-", dir="/tmp") as folder:
        ports = ",".join(str(port) for port in free_ports(4))
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.local.serving_story"),
                *(folder, ports, str(RATE_PER_S), str(STEP_S)),
            ],
            cwd=repository,
            env={**child_environment, "RAY_AUTH_MODE": "disabled"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(timeout=180)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
        assert process.returncode == 0, errors[-3000:]
        yield json.loads(output.splitlines()[-1])


def test_no_request_fails_while_policies_switch_and_variants_start(story: dict[str, Any]) -> None:
    """An open-loop client without retries, through a start, three steps and a promotion."""
    assert story["failures"] == []
    assert (story["failed"], story["answered"]) == (0, story["sent"])
    assert story["sent"] > RATE_PER_S * STEP_S * 5


def test_every_request_is_answered_by_the_owner_of_its_slot(story: dict[str, Any]) -> None:
    """By the slot table of the epoch that the answer names."""
    assert story["misassigned"] == 0
    assert set(story["versions"]) == {"1", "2"}


def test_every_answer_is_in_the_exposure_log_once(story: dict[str, Any]) -> None:
    """And in the evidence."""
    assert story["exposed"] == story["exposed_ids"] == story["answered"] == story["counted"]


def test_every_row_of_a_paired_policy_is_scored_by_both(story: dict[str, Any]) -> None:
    """Rows that only one version answered included."""
    assert story["paired"] == story["pairs_wanted"] > 0


def test_a_variant_refuses_what_no_gateway_has_sealed(story: dict[str, Any]) -> None:
    """Its address is reachable through the ingress like any other."""
    assert story["unsealed"] == 403


def test_starting_a_variant_twice_is_quick_and_changes_nothing(story: dict[str, Any]) -> None:
    """The controller repeats what it is not sure of after a crash."""
    assert story["timings"]["variant started again after s"] < 3
