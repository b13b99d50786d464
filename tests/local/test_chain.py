"""The whole chain under bad input, slow clients and a candidate that is killed."""

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
from tests.local.chain_story import TOTAL


@pytest.fixture(scope="module")
def story(child_environment: dict[str, str], repository: Path) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="hs-", dir="/tmp") as folder:
        ports = ",".join(str(port) for port in free_ports(4))
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.local.chain_story", folder, ports],
            cwd=repository,
            env={**child_environment, "RAY_AUTH_MODE": "disabled"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(timeout=420)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
        assert process.returncode == 0, errors[-3000:]
        # Ray writes there too, such as that calls to a killed controller are made again.
        yield json.loads(next(line for line in output.splitlines() if line.startswith("{")))


def test_bad_input_over_raw_sockets_gets_one_declared_answer(story: dict[str, Any]) -> None:
    """Through the real ingress, the smuggling attempts included; and the gateway lives on."""
    assert story["bad"]["wrong"] == {}
    assert story["bad"]["healthy"]
    assert not [status for status in story["bad"]["seen"] if status >= 500]


def test_slow_and_half_sent_requests_are_closed_within_ten_seconds(story: dict[str, Any]) -> None:
    """Silent, half a head, dripping, half a body: each is told 408 and cut."""
    assert {name: (took_s <= 10, status) for name, (took_s, status) in story["slow"].items()} == (
        dict.fromkeys(story["slow"], (True, 408))
    )


def test_a_candidate_that_is_killed_costs_nobody_a_request(story: dict[str, Any]) -> None:
    """Half of the units are its own; an open-loop client without retries keeps the ledger."""
    killed = story["killed"]
    assert (killed["failed"], killed["problems"]) == (0, [])
    assert (killed["sent"], killed["answered"], killed["misassigned"]) == (TOTAL, TOTAL, 0)
    assert killed["kills"] >= 2
    assert set(killed["by_version"]) == {"1", "2"}


@pytest.mark.parametrize("fault", ["swap", "put_again", "kill_controller"])
def test_what_happens_all_the_time_costs_nobody_a_request(
    story: dict[str, Any], fault: str
) -> None:
    """A new stable version, the whole config PUT once more, a dead Serve controller."""
    run = story["faults"][fault]
    assert (run["failed"], run["problems"], run["misassigned"]) == (0, [], 0)
    assert run["sent"] >= TOTAL
    assert run["faults"] >= 1


def test_every_route_that_serve_exposes_is_ours_or_refuses(story: dict[str, Any]) -> None:
    """Listed from the running system, the replicas' own ports included."""
    assert story["doors"]["unguarded"] == []
    assert story["doors"]["routes"] == {"gateway": "/", "variant-shapes-2": "/variants/shapes/2"}
    assert len(story["doors"]["asked"]) >= 8
