from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from heliostat.errors import ConfigError, Unavailable
from heliostat.stack import ray_api, serve_config, serving

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


def _config(tmp_path: Path, *applications: dict[str, Any]) -> Path:
    path = tmp_path / "serve.yaml"
    path.write_text(json.dumps({"applications": list(applications)}))
    return path


def _gateway(name: str, route: str, **args: Any) -> dict[str, Any]:
    return {
        "name": name, "route_prefix": route, "import_path": serve_config.GATEWAY,
        "args": {"home": "${HELIOSTAT_HOME}", **args},
    }  # fmt: skip


def test_the_default_gateway_learns_which_models_have_their_own(tmp_path: Path) -> None:
    """So that no model is loaded twice; what the file says itself is kept."""
    path = _config(
        tmp_path,
        _gateway("gateway", "/", elsewhere=["old"]),
        _gateway("gateway-large", "/v2/models/large", model="large", num_gpus=1),
    )

    config = serve_config.read(path, tmp_path, VALUES, 8001)

    assert [application["args"] for application in config["applications"]] == [
        {"home": "/a home", "elsewhere": ["large", "old"]},
        {"home": "/a home", "model": "large", "num_gpus": 1},
    ]


@pytest.mark.parametrize(
    ("application", "message"),
    [
        (
            _gateway("g", "/large", model="large"),
            (
                "application g: route_prefix = '/large': must be /v2/models/large, where the "
                "requests for its model go"
            ),
        ),
        (
            _gateway("g", "/", num_replica=2),
            "args = 'num_replica': is not a setting; did you mean 'num_replicas'?",
        ),
        (
            {"name": "c", "import_path": "serve_apps.control:build",
             "args": {"home": "/h", "variant_max_replicas": "2"}},
            "args.variant_max_replicas = '2': must be a whole number",
        ),
    ],
)  # fmt: skip
def test_a_config_that_no_replica_could_use_is_refused_before_it_is_put(
    tmp_path: Path, application: dict[str, Any], message: str
) -> None:
    """Serve would say so minutes later, in the log of a replica that does not start."""
    with pytest.raises(ConfigError) as caught:
        serve_config.read(_config(tmp_path, application), tmp_path, VALUES, 8001)

    assert str(caught.value) == message


def test_the_clusters_config_is_read_as_well(repository: Path) -> None:
    """Its applications take home and addresses from the environment; nothing is filled in."""
    config = serve_config.read(Path("serve_apps/cluster.yaml"), repository, VALUES, 8001)

    assert [item["name"] for item in config["applications"]] == ["gateway", "control"]


def test_putting_a_config_needs_a_platform_that_is_up(tmp_path: Path, repository: Path) -> None:
    """The message says what to run."""
    with pytest.raises(Unavailable, match=r"platform: is down\. Start it with: heliostat up"):
        serving.deploy(
            tmp_path, Path("serve_apps/platform.yaml"), repository, environ_now={}, timeout_s=1.0
        )
