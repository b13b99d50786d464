from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from heliostat.commands.clusters import cluster_app as app
from heliostat.errors import ConfigError, GateRefused
from tests.conftest import ROOT

RECIPE = "cluster_configs.recipes:eks"


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=True)


def test_render_writes_what_differs_and_then_nothing(tmp_path):
    """The second run changes no file; a file that the recipe no longer gives goes."""
    first = run("render", "--recipe", RECIPE, "--out", str(tmp_path))
    (tmp_path / "ray" / "old.yaml").write_text("kind: Old\n")
    second = run("render", "--recipe", RECIPE, "--out", str(tmp_path))

    assert first.exit_code == 0
    assert second.output == f"  ray/old.yaml\n1 files changed in {tmp_path}\n"
    assert not (tmp_path / "ray" / "old.yaml").exists()


def test_render_removes_nothing_from_a_folder_of_others(tmp_path):
    """What the recipe does not give would go, so the folder must be ours; a file is no folder."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.yaml").write_text("kind: Mine\n")
    (tmp_path / "file").write_text("")
    foreign = run("render", "--recipe", RECIPE, "--out", str(tmp_path / "mine"))
    blocked = run("render", "--recipe", RECIPE, "--out", str(tmp_path / "file"))

    assert isinstance(foreign.exception, ConfigError)
    assert "must be new, empty or a rendered folder; 1 files such as precious.yaml" in str(
        foreign.exception
    )
    assert [path.name for path in (tmp_path / "mine").rglob("*")] == ["precious.yaml"]
    assert isinstance(blocked.exception, ConfigError)
    assert "must be a folder that can be written" in str(blocked.exception)


def test_diff_shows_a_change_and_says_no(tmp_path):
    """For a pipeline: exit 3 where the folder is not what the recipe renders."""
    run("render", "--recipe", RECIPE, "--out", str(tmp_path))
    same = run("diff", "--recipe", RECIPE, "--out", str(tmp_path))
    changed = run(
        "diff", "--recipe", RECIPE, "--out", str(tmp_path), "--set", "cluster.serve_min_workers=3"
    )

    assert (same.exit_code, same.output) == (0, "")
    assert "minReplicas: 3" in changed.output
    assert isinstance(changed.exception, GateRefused)


def test_check_prints_findings_and_exits_2(tmp_path):
    """As `where = value: rule; what breaks it`, and as JSON."""
    path = tmp_path / "open.yaml"
    path.write_text("a: 1\na: 2\n")
    plain = run("check", str(path))
    found = run("check", str(path), "--json")

    assert plain.exit_code == found.exit_code == 2
    assert plain.output.endswith("0 objects in 1 files: 1 errors, 0 warnings\n")
    assert [item["check"] for item in json.loads(found.output)] == ["yaml.read"]


def test_check_says_where_its_crds_should_have_been(tmp_path):
    """A mistyped folder must not pass as one that found nothing wrong."""
    found = run("check", "cluster_configs/eks/queues", "--crds", str(tmp_path / "none"))

    assert isinstance(found.exception, ConfigError)
    assert "--crds" in str(found.exception)


def test_simulate_names_the_clusters_that_there_are():
    """Of a mistyped name, the nearest."""
    found = run(
        "simulate", "cluster_configs/eks/ray", "--demand", "GPU=1", "--name", "RayCluster/dev"
    )

    assert "did you mean 'RayCluster/heliostat-dev'?" in str(found.exception)


def test_a_folder_of_ours_passes():
    """The committed target, with JSON for tools."""
    found = run("check", "cluster_configs/gke", "--whole", "--json")

    assert (found.exit_code, json.loads(found.output)) == (0, [])


def test_simulate_says_what_scales_and_what_never_can():
    """Exit 3 where a demand fits no group."""
    arguments = (
        "simulate",
        "cluster_configs/eks/ray",
        "--name",
        "RayCluster/heliostat-dev",
        "--json",
    )
    fits = run(*arguments, "--demand", "3xGPU=1")
    never = run(*arguments, "--demand", "GPU=9")

    assert fits.exit_code == 0
    assert json.loads(fits.output) == {
        "RayCluster/heliostat-dev": {"launched": {"gpu": 1, "gpu-spot": 2}, "infeasible": []}
    }
    assert never.exit_code == 3


def test_cost_without_prices_asks_for_them():
    """No price is built in."""
    assert isinstance(run("cost", "--recipe", RECIPE).exception, ConfigError)


def test_apply_stops_before_kubectl():
    """A folder with example values, and one that fails the checks, never reach a cluster."""
    found = run("apply", "cluster_configs/eks/ray", "--context", "none")

    assert isinstance(found.exception, GateRefused)
