"""A file that nobody has seen becomes a served model that took over by a canary, by two commands."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.bench import csv_files
from tests.e2e.conftest import LivePlatform
from tests.e2e.copied import copied

SUBMIT_S = 420.0

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def clone(live_platform: LivePlatform, tmp_path_factory: pytest.TempPathFactory) -> LivePlatform:
    """The live platform, driven from a copy of this clone, into which a folder may be written."""
    folder = tmp_path_factory.mktemp("clone")
    copied(live_platform.repository, folder)
    path = f"{folder / 'platform'}{os.pathsep}{folder}"
    return dataclasses.replace(
        live_platform,
        repository=folder,
        environment={**live_platform.environment, "PYTHONPATH": path},
    )


def _from_file_to_traffic(clone: LivePlatform, example: csv_files.Example, folder: Path) -> Any:
    path = csv_files.write(example, folder)
    made = clone.run("new", example.name, "--from", str(path), *example.options)
    assert made.returncode == 0, made.stdout + made.stderr

    done = clone.run(
        "submit", "--recipe", f"jobs.{example.name}:run", "--", "jobs/pipeline.py",
        timeout_s=SUBMIT_S,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    newest = max((clone.home / "reports").glob("*.json"), key=lambda item: item.stat().st_mtime)
    report: dict[str, Any] = json.loads(newest.read_text())
    (command,) = re.findall(r"^  (curl .*)$", done.stdout, re.MULTILINE)
    answer = json.loads(subprocess.check_output(command, shell=True, text=True))
    assert answer["model_version"] == report["versions"]["candidate"]["version"]
    return made.stdout, report


def _is_canaried(report: dict[str, Any]) -> None:
    assert report["rollout"]["state"] == "promoted"
    assert report["failed"] == 0
    assert report["exposures"] == report["requests"]
    assert report["features_online_vs_offline"]["different"] == 0
    assert report["scores_online_vs_offline"]["different"] == 0


@pytest.mark.proof
def test_a_number_to_predict_goes_the_whole_way_without_an_edit(
    clone: LivePlatform, tmp_path: Path
) -> None:
    """442 rows without time and entity: order stands for time, and requests carry the inputs."""
    told, report = _from_file_to_traffic(clone, csv_files.PROGRESSION, tmp_path)

    _is_canaried(report)
    assert report["task"] == "regression"
    assert report["versions"]["candidate"]["offline"]["r2"] > 0.1
    assert "No --time: training, measuring and replay follow the order of the rows." in told
    assert "No --entity: every request carries all inputs" in told


@pytest.mark.proof
def test_two_classes_of_thirty_numbers_go_the_whole_way_without_an_edit(
    clone: LivePlatform, tmp_path: Path
) -> None:
    """569 rows: the replay repeats them, and labels count once."""
    told, report = _from_file_to_traffic(clone, csv_files.TUMOURS, tmp_path)

    _is_canaried(report)
    assert report["versions"]["candidate"]["offline"]["auc"] > 0.95
    assert "labels count once" in told


@pytest.mark.proof
def test_text_dates_and_missing_values_go_the_whole_way_without_an_edit(
    clone: LivePlatform, tmp_path: Path
) -> None:
    """By time and customer: features come from the online store, and the leak is left out."""
    told, report = _from_file_to_traffic(clone, csv_files.SUBSCRIPTIONS, tmp_path)

    _is_canaried(report)
    assert report["features_online_vs_offline"]["values"] == report["requests"] * 7
    assert report["versions"]["candidate"]["offline"]["auc"] > 0.7
    assert "Left out as likely leaks: Refund." in told
