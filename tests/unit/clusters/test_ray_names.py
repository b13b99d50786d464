from __future__ import annotations

import pytest
from ray.runtime_env import RuntimeEnv
from ray.scripts.scripts import start
from ray.serve import schema
from ray.serve.config import AutoscalingConfig

from heliostat.clusters.checks import ray_names

MODELS = {
    "DEPLOY": schema.ServeDeploySchema,
    "APPLICATION": schema.ServeApplicationSchema,
    "DEPLOYMENT": schema.DeploymentSchema,
    "ACTOR": schema.RayActorOptionsSchema,
    "HTTP": schema.HTTPOptionsSchema,
    "LOGGING": schema.LoggingConfig,
    "AUTOSCALING": AutoscalingConfig,
}


@pytest.mark.parametrize("name", sorted(MODELS))
def test_keys_of_serve_are_those_of_the_installed_ray(name):
    """The checks import no Ray, so its names stand in a table that must not age."""
    assert getattr(ray_names, name) == set(MODELS[name].model_fields)


def test_keys_of_runtime_environments_and_ray_start_are_the_installed_rays():
    """A new option of Ray would be refused otherwise."""
    options = {o.removeprefix("--") for p in start.params for o in getattr(p, "opts", [])}

    assert RuntimeEnv.known_fields == ray_names.RUNTIME_ENV
    assert {name.removeprefix("-") for name in options} == ray_names.START


def test_serves_own_model_accepts_the_config_of_the_clusters(repository):
    """What our strict rules let pass, Ray takes."""
    import yaml

    text = (repository / "serve_apps" / "cluster.yaml").read_text()
    found = schema.ServeDeploySchema.model_validate(yaml.safe_load(text))

    assert [app.name for app in found.applications] == ["gateway", "control"]
