from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from heliostat.errors import ConfigError
from heliostat.stack.settings import (
    Ports,
    StackSettings,
    find_repository,
    home_root,
    load_settings,
)


def test_settings_come_from_the_environment_and_then_from_the_command_line() -> None:
    """HELIOSTAT_SET holds several assignments; --set comes after it and wins."""
    settings = load_settings(
        {"HELIOSTAT_SET": "ports.mlflow=5001 num_cpus=3 'serve_config=my apps.yaml'"},
        ["ports.serve=8001", "num_cpus=6"],
    )
    assert settings == StackSettings(
        ports=Ports(mlflow=5001, serve=8001), num_cpus=6, serve_config="my apps.yaml"
    )


def test_two_ports_can_be_swapped() -> None:
    """Ports are checked against each other when all are set, not half-way."""
    settings = load_settings({}, ["ports.mlflow=8000", "ports.serve=5000"])
    assert (settings.ports.mlflow, settings.ports.serve) == (8000, 5000)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("ports.mlflw=5001", ("--set = 'ports.mlflw': Ports has no field 'mlflw'; "
         "did you mean 'mlflow'?")),
        ("ports.mlflow=high", "ports.mlflow = 'high': must be int"),
        ("ports.mlflow=80", "ports.mlflow = 80: must be a port from 1024 to 65535"),
        ("ports.mlflow=8000", "ports.mlflow = 8000: must be used once; ports.serve has it"),
        ("num_cpu=3", ("--set = 'num_cpu': StackSettings has no field 'num_cpu'; "
         "did you mean 'num_cpus'?")),
        ("num_cpus=0", "num_cpus = 0: must be at least 1"),
        ("ports=3", "ports = '3': must be Ports"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_refused_with_the_right_key(assignment: str, message: str) -> None:
    """A wrong key names the nearest right one; a wrong value names the rule."""
    with pytest.raises(ConfigError) as caught:
        load_settings({}, [assignment])
    assert str(caught.value) == message


def test_two_training_workers_fit_on_one_core() -> None:
    """Ray hands out at least 4 slots, or as many as are asked for."""
    assert StackSettings().num_slots >= 4
    assert dataclasses.replace(StackSettings(), num_cpus=2).num_slots == 2


def test_state_lives_in_the_clone_unless_told_otherwise(tmp_path: Path) -> None:
    """HELIOSTAT_HOME wins over .heliostat in the clone; both are absolute."""
    assert home_root({}, tmp_path) == tmp_path / ".heliostat"
    assert home_root({"HELIOSTAT_HOME": "/a b/c"}, tmp_path) == Path("/a b/c")


def test_the_clone_is_found_from_any_folder_in_it(tmp_path: Path) -> None:
    """The clone is the first folder upward that has platform/heliostat and serve_apps."""
    (tmp_path / "platform" / "heliostat").mkdir(parents=True)
    (tmp_path / "serve_apps").mkdir()
    deep = tmp_path / "jobs" / "x"
    deep.mkdir(parents=True)
    assert find_repository(deep) == tmp_path
