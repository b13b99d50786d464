from __future__ import annotations

from pathlib import Path

import pytest

from heliostat.errors import ConfigError, Unavailable
from heliostat.stack import ray_api

VALUES = {
    "SERVE_PORT": "8001",
    "HELIOSTAT_HOME": "/a home",
    "HELIOSTAT_ENDPOINT": "http://127.0.0.1:8001",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:5000",
}


def test_names_are_filled_in_and_ports_become_numbers(tmp_path: Path) -> None:
    """Texts are filled in after reading, so that no value can change the structure."""
    path = tmp_path / "s.yaml"
    path.write_text("port: ${SERVE_PORT}\nargs: {home: '${HELIOSTAT_HOME}/x', n: 3, on: true}\n")
    values = {**VALUES, "HELIOSTAT_HOME": "/a: b}"}
    assert ray_api.load_serve_config(path, values) == {
        "port": 8001,
        "args": {"home": "/a: b}/x", "n": 3, True: True},
    }


def test_the_platforms_own_file_is_complete(repository: Path) -> None:
    """Gateway and controller are declared, on loopback, with all values known."""
    config = ray_api.load_serve_config(repository / "serve_apps" / "platform.yaml", VALUES)
    assert config["http_options"]["host"] == "127.0.0.1"
    assert config["http_options"]["port"] == 8001
    assert [(app["name"], app["route_prefix"]) for app in config["applications"]] == [
        ("gateway", "/"),
        ("control", "/v1"),
    ]


def test_a_name_that_is_not_known_is_refused(tmp_path: Path) -> None:
    """A misspelt name is found before anything starts."""
    path = tmp_path / "s.yaml"
    path.write_text("a: ${HOMES}\n")
    with pytest.raises(ConfigError, match=r"must name known values; 'HOMES'; known: HELIOSTAT_"):
        ray_api.load_serve_config(path, VALUES)


def test_a_head_that_is_not_there_is_no_traceback() -> None:
    """Port 1 of loopback answers nothing: not up, and a PUT says that Ray is unavailable."""
    api = ray_api.RayApi("http://127.0.0.1:1", None)
    assert not api.is_up()
    with pytest.raises(Unavailable, match="Ray Serve: did not take the applications"):
        api.put_applications({})
    assert not ray_api.answers("http://127.0.0.1:1/x")


class _Scripted(ray_api.RayApi):
    def __init__(self, *answers: dict[str, str]) -> None:
        super().__init__("http://127.0.0.1:1", None)
        self._answers = list(answers)

    def applications(self) -> dict[str, str]:
        return self._answers.pop(0)


def test_waiting_ends_when_all_run() -> None:
    """Each named application has to run; others do not matter."""
    api = _Scripted({}, {"a": "DEPLOYING"}, {"a": "RUNNING", "b": "RUNNING", "c": "UNHEALTHY"})
    ray_api.wait_for_applications(api, ["a", "b"], deadline=1.0, clock=lambda: 0.0)


def test_a_failed_application_ends_the_wait_with_serves_reason() -> None:
    """A deployment that fails is told at once, not after the deadline."""
    api = _Scripted({"a": "DEPLOY_FAILED: ImportError: no module x"})
    with pytest.raises(Unavailable) as caught:
        ray_api.wait_for_applications(api, ["a"], deadline=1.0, clock=lambda: 0.0)
    assert str(caught.value) == ("Serve application a: DEPLOY_FAILED: ImportError: no module x")
