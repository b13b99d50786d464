from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from heliostat import __version__


@pytest.fixture
def environment(child_environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """A fresh state folder, in which nothing was ever started."""
    child = {**child_environment, "HELIOSTAT_HOME": str(tmp_path / "a home")}
    child.pop("HELIOSTAT_SET", None)
    return child


def _run(
    environment: dict[str, str], repository: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "heliostat", *arguments],
        env=environment,
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_version_is_the_packages(environment: dict[str, str], repository: Path) -> None:
    """`--version` prints name and version."""
    done = _run(environment, repository, "--version")
    assert (done.returncode, done.stdout) == (0, f"heliostat {__version__}\n")


def test_help_is_fast_and_loads_nothing_heavy(
    environment: dict[str, str], repository: Path
) -> None:
    """`--help` takes well under a second and imports neither Ray nor MLflow nor Feast."""
    code = (
        "import sys; sys.argv = ['heliostat', '--help']\n"
        "from heliostat.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end\n"
        "heavy = {'ray', 'mlflow', 'feast', 'torch', 'pandas', 'numpy', 'structlog'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment, cwd=repository, capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    for command in ("up", "down", "status", "doctor", "env", "submit", "plan", "rollout"):
        assert f"  {command} " in done.stdout
    assert seconds < 3, "0.2 s on an idle machine"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("env",), 4, "heliostat: platform: is down. Start it with: heliostat up\n"),
        (("rollout", "list"), 4, "heliostat: platform: is down. Start it with: heliostat up\n"),
        (("submit", "--", "jobs/none.py"), 2,
         "heliostat: script = 'jobs/none.py': must be a file of the clone that git tracks; known: "),
        (("up", "--set", "ports.mlflw=1"), 2,
         "heliostat: --set = 'ports.mlflw': Ports has no field 'mlflw'; did you mean 'mlflow'?"),
        (("up", "--set", "ports.mlflow=1"), 2, "heliostat: ports.mlflow = 1: must be a port"),
        (("plan", "--recipe", "nowhere:demo"), 2, "heliostat: --recipe = 'nowhere:demo': "),
        (("status",), 4, ""),
        (("nonsense",), 2, "Usage: "),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_an_exit_code(
    environment: dict[str, str],
    repository: Path,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    """What the reader can fix comes without a traceback, with the code of its kind."""
    done = _run(environment, repository, *arguments)
    assert done.returncode == code
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr


def test_down_and_status_of_nothing(environment: dict[str, str], repository: Path) -> None:
    """`down` where nothing ever ran is fine and makes no folder; so is `status --json`."""
    done = _run(environment, repository, "down")
    assert (done.returncode, done.stdout) == (0, "nothing runs\n")
    found = _run(environment, repository, "status", "--json")
    assert json.loads(found.stdout) == {
        "state": "down", "parts": {}, "applications": {}, "urls": {}, "num_processes": 0,
    }  # fmt: skip
    assert not Path(environment["HELIOSTAT_HOME"]).exists()


def test_doctor_lists_findings_with_fixes(environment: dict[str, str], repository: Path) -> None:
    """Each finding has a name, a verdict, what was found and, unless all is well, a fix."""
    done = _run(environment, repository, "doctor", "--json")
    findings = {item.pop("name"): item for item in json.loads(done.stdout)}
    assert {"system", "versions", "disk", "memory", "Ray token", "platform"} <= set(findings)
    assert {f"ports.{name}" for name in ("serve", "mlflow", "gcs")} <= set(findings)
    for item in findings.values():
        assert item["verdict"] in {"good", "note", "bad"}
        assert item["verdict"] == "good" or item["fix"]


def test_a_key_is_shown_once_and_can_be_rotated_and_revoked(
    environment: dict[str, str], repository: Path
) -> None:
    """The list never shows a secret or what is kept of it."""
    made = _run(environment, repository, "key", "create", "billing", "--rate-per-s", "5")
    text = made.stdout.strip()
    key_id = text.split("_")[1]
    rotated = _run(environment, repository, "key", "rotate", key_id, "--overlap-s", "60")
    revoked = _run(environment, repository, "key", "revoke", key_id)
    rows = json.loads(_run(environment, repository, "key", "list", "--json").stdout)
    unknown = _run(environment, repository, "key", "revoke", "nobody")

    assert made.returncode == rotated.returncode == revoked.returncode == 0
    assert [(row["owner"], row["rate_per_s"], row["ends_at"] is None) for row in rows] == [
        ("billing", 5.0, False),
        ("billing", 5.0, True),
    ]
    assert text not in json.dumps(rows)
    assert "mac" not in rows[0]
    assert unknown.returncode == 2
