from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import csv_files


@pytest.fixture
def empty_clone(tmp_path: Path) -> Path:
    """What makes a folder a clone, and nothing in it."""
    root = tmp_path / "clone"
    for name in ("platform/heliostat", "serve_apps", "jobs"):
        (root / name).mkdir(parents=True)
    return root


def _heliostat(
    environment: dict[str, str], clone: Path, repository: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    path = f"{repository / 'platform'}{os.pathsep}{clone}"
    return subprocess.run(
        [sys.executable, "-m", "heliostat", *arguments],
        env={**environment, "PYTHONPATH": path}, cwd=clone, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.mark.parametrize("example", csv_files.ALL, ids=lambda item: item.name)
def test_a_new_folder_is_a_recipe_that_can_be_planned_and_keeps_the_style(
    example: csv_files.Example,
    empty_clone: Path,
    child_environment: dict[str, str],
    repository: Path,
    tmp_path: Path,
) -> None:
    """Built and checked as any recipe; ruff, with this repository's rules, has nothing to say."""
    path = csv_files.write(example, tmp_path)
    made = _heliostat(
        child_environment, empty_clone, repository,
        "new", example.name, "--from", str(path), *example.options,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout + made.stderr
    assert f"jobs/{example.name}/tables.py" in made.stdout

    planned = _heliostat(
        child_environment, empty_clone, repository, "plan", "--recipe", f"jobs.{example.name}:run"
    )
    assert planned.returncode == 0, planned.stderr
    recipe = json.loads(planned.stdout)
    assert recipe["candidate"]["training"]["task"] == example.task
    assert (recipe["service"] is None) == ("--entity" not in example.options)

    for check in (["check"], ["format", "--check"]):
        found = subprocess.run(
            [
                sys.executable, "-m", "ruff", *check, "--no-cache", "--config",
                str(repository / "pyproject.toml"), "jobs",
            ],
            cwd=empty_clone, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert found.returncode == 0, found.stdout + found.stderr


def test_a_name_that_is_taken_or_no_name_changes_nothing(
    empty_clone: Path, child_environment: dict[str, str], repository: Path, tmp_path: Path
) -> None:
    """Exit code 2, one line, and no folder."""
    path = csv_files.write(csv_files.PROGRESSION, tmp_path)
    (empty_clone / "jobs" / "taken.py").touch()
    for name, said in (
        ("taken", "NAME = 'taken': must be new; jobs/taken is there already"),
        ("My-Model", "NAME = 'My-Model': must be 1 to 41 characters of a-z, 0-9 and _"),
    ):
        made = _heliostat(
            child_environment, empty_clone, repository,
            "new", name, "--from", str(path), "--label", "target",
        )  # fmt: skip
        assert (made.returncode, made.stdout) == (2, "")
        assert said in made.stderr
    assert [item.name for item in (empty_clone / "jobs").iterdir()] == ["taken.py"]
