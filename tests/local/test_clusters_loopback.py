"""The rendered service and job on real Ray processes, each in a Pod of this machine's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from heliostat.testing import pods, redis
from tests.unit.postgres import BINARIES


@pytest.fixture(scope="module")
def story(child_environment, repository, tmp_path_factory):
    if reason := pods.why_not():
        pytest.skip(reason)
    if not BINARIES or not redis.is_installed() or os.geteuid() != 0:
        pytest.skip("needs root, and PostgreSQL and Redis: apt-get install postgresql redis-server")
    folder = tmp_path_factory.mktemp("loopback")
    done = subprocess.run(
        pods.isolated([sys.executable, "-m", "tests.local.clusters_story", str(folder)]),
        cwd=repository, env=child_environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.proof
@pytest.mark.timeout(1500)
def test_what_is_rendered_serves_trains_and_scales(story):
    """Token, Serve config, job, prediction and both directions of scaling, by the real programs."""
    assert story["doors"] == {
        "read none": 401, "start a job none": 401, "read wrong": 403, "start a job wrong": 403,
        "read right": 200, "start a job right": 200,
    }  # fmt: skip
    assert story["serve_config_is_the_local_file"]
    assert story["applications"] == {"gateway": "RUNNING", "control": "RUNNING"}
    assert (story["job_workers_before"], story["job_workers_asked"] >= 1) == (0, True)
    assert story["prediction"]["status"] == story["prediction_at_the_end"] == 200
    assert 0 < story["prediction"]["value"] < 1
    assert story["prediction_without_key"] == 401
    kept = story["kept_in_servers"]
    assert kept["events"] == ["deployment.requested", "deployment.done"]
    assert (kept["has_a_file"], kept["online_records"] > 1_000) == (False, True)
    assert story["gpu_tasks"] == ["ran on ['on-demand', 'spot']"]
    assert story["gpu_asked"] == {"gpu-spot": 1, "gpu": 1}
    assert story["serving_workers_at_the_end"] == 2
    assert story["api"]["refused"] == []
