"""Turn a recipe into a folder of YAML that `kubectl apply -k` takes with no Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from heliostat import config
from heliostat.clusters import (
    foundation,
    nodes,
    policies,
    queues,
    ray_objects,
    services,
    values,
    watching,
)
from heliostat.clusters.recipe import ClusterRecipe
from heliostat.errors import ConfigError

HEADER = "# Rendered by `heliostat cluster render`; change the recipe, not this file.\n"

Files = dict[str, str]
"""Relative path to text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobLine:
    """One job template: what runs, for whom, and when."""

    entrypoint: str
    role: Literal["train", "batch"] = "train"
    schedule: str | None = None
    """Five cron fields; None makes a RayJob to submit by hand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Platform:
    """A cluster and the job templates that belong to it: what a recipe function returns."""

    cluster: ClusterRecipe
    jobs: tuple[tuple[str, JobLine], ...] = ()


def render(
    recipe: ClusterRecipe, repository: Path, jobs: Mapping[str, JobLine] | None = None
) -> Files:
    """Render every file of a target.

    Args:
        recipe: The platform.
        repository: Where ``recipe.serve_config`` lies; its text goes into the service unchanged.
        jobs: Job templates by name.

    Raises:
        ConfigError: The Serve config is not there.
    """
    path = repository / recipe.serve_config
    try:
        serve_config = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError("serve_config", recipe.serve_config, "must be a readable file") from error
    groups = {
        "foundation": _foundation(recipe),
        "platform": _platform(recipe),
        "queues": {"kueue": queues.queues(recipe)},
        "ray": _ray(recipe, serve_config, jobs or {}),
        "jobs": {
            name: [ray_objects.job(recipe, name, line.role, line.entrypoint)]
            for name, line in (jobs or {}).items()
            if line.schedule is None
        },
    }
    if found := nodes.nodes(recipe):
        groups["nodes"] = {"nodes": found}
    files: Files = {}
    for folder, parts in groups.items():
        written = {name: objects for name, objects in parts.items() if objects}
        for name, objects in written.items():
            files[f"{folder}/{name}.yaml"] = to_yaml(*objects)
        if written:
            files[f"{folder}/kustomization.yaml"] = kustomization([f"{n}.yaml" for n in written])
    applied: list[str] = [
        name for name in ("foundation", "nodes", "queues", "platform", "ray") if name in groups
    ]
    files["kustomization.yaml"] = kustomization(applied)
    for chart, content in values.helm_values(recipe).items():
        files[f"values/{chart}.yaml"] = HEADER + _dump(content)
    files.update(_overlays(recipe, jobs or {}))
    files.update(_queued_schedules(recipe, jobs or {}))
    files["recipe.json"] = config.to_json(recipe) + "\n"
    return files


def _foundation(recipe: ClusterRecipe) -> dict[str, list[dict[str, Any]]]:
    return {
        "namespaces": foundation.namespaces(recipe),
        "accounts": foundation.accounts(recipe),
        "priorities": foundation.priority_classes(recipe),
        "quotas": foundation.quotas(recipe),
        "network-policies": policies.network_policies(recipe),
        "volumes": foundation.volumes(recipe),
        "image-pull": foundation.image_pull(recipe),
    }


def _platform(recipe: ClusterRecipe) -> dict[str, list[dict[str, Any]]]:
    return {
        "secrets": services.external_secrets(recipe),
        "redis": services.redis(recipe),
        "postgres": services.postgres(recipe),
        "mlflow": services.mlflow(recipe),
        "gateway": services.gateway(recipe),
        "rate-limit": services.rate_limit(recipe),
        "monitors": watching.monitors(recipe),
        "alerts": watching.alerts(recipe),
        "logs": watching.log_shipping(recipe),
    }


def _ray(
    recipe: ClusterRecipe, serve_config: str, jobs: Mapping[str, JobLine]
) -> dict[str, list[dict[str, Any]]]:
    serving = {"heliostat.io/role": "serve", "heliostat.io/group": recipe.cpu.name}
    return {
        "service": [
            ray_objects.service(recipe, serve_config),
            services.disruption_budget(
                recipe, f"{recipe.name}-serve", recipe.namespace, serving,
                min_available=recipe.serve_min_workers - 1,
            ),
        ],
        "shared-cluster": [ray_objects.shared_cluster(recipe)],
        "scheduled": [
            ray_objects.scheduled(recipe, name, line.role, line.entrypoint, line.schedule)
            for name, line in jobs.items()
            if line.schedule is not None
        ],
    }  # fmt: skip


def _overlays(recipe: ClusterRecipe, jobs: Mapping[str, JobLine]) -> Files:
    """Changes that some clusters need; JSON patches, since others replace lists of groups."""
    rocksdb = [
        {
            "op": "replace",
            "path": "/spec/gcsFaultToleranceOptions",
            "value": {
                "backend": "rocksdb",
                "storage": {
                    "size": "10Gi",
                    "storageClassName": recipe.storage.volume_class,
                    "accessModes": ["ReadWriteOnce"],
                    "deletionPolicy": "Retain",
                },
            },
        }
    ]
    shared = {"kind": "RayCluster", "name": f"{recipe.name}-dev"}
    found = {"rocksdb": _overlay("../../ray", [(shared, rocksdb)])}
    if recipe.fault_tolerance == "rocksdb":
        del found["rocksdb"]
    if recipe.mutual_tls:
        found["without-mutual-tls"] = _without_tls("../../ray")
        if any(line.schedule is None for line in jobs.values()):
            found["without-mutual-tls/jobs"] = _without_tls("../../../jobs")
    return {f"overlays/{name}/kustomization.yaml": text for name, text in found.items()}


def _without_tls(resources: str) -> str:
    """Take mutual TLS out of every Ray cluster: without its gate the operator refuses them all."""
    kinds = {"ray": ("RayCluster", "RayService", "RayCronJob"), "jobs": ("RayJob",)}
    return _overlay(resources, [
        ({"kind": kind}, [{"op": "remove", "path": f"/spec/{_CLUSTER_IN[kind]}tlsOptions"}])
        for kind in kinds[resources.rpartition("/")[2]]
    ])  # fmt: skip


_CLUSTER_IN = {
    "RayCluster": "",
    "RayService": "rayClusterConfig/",
    "RayJob": "rayClusterSpec/",
    "RayCronJob": "jobTemplate/rayClusterSpec/",
}
"""Where below ``spec`` each kind holds its cluster."""


def _queued_schedules(recipe: ClusterRecipe, jobs: Mapping[str, JobLine]) -> Files:
    """Let scheduled jobs wait in Kueue's queues, where the API server has the policies for it."""
    roles = {name: line.role for name, line in jobs.items() if line.schedule is not None}
    if not roles:
        return {}
    folder = "overlays/queued-schedules"
    return {
        f"{folder}/policies.yaml": to_yaml(*queues.for_schedules(recipe, roles)),
        f"{folder}/kustomization.yaml": kustomization(["../../ray", "policies.yaml"]),
    }


def _overlay(
    resources: str, patches: list[tuple[Mapping[str, str], list[dict[str, Any]]]]
) -> str:  # fmt: skip
    body = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [resources],
        "patches": [
            {"target": dict(target), "patch": _dump(changes)} for target, changes in patches
        ],
    }
    return HEADER + _dump(body)


def kustomization(resources: list[str]) -> str:
    """A kustomization that only lists: patches of lists inside custom resources lose elements."""
    body = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": resources,
    }
    return HEADER + _dump(body)


def to_yaml(*objects: Mapping[str, Any]) -> str:
    """Write objects as YAML documents; multi-line texts stay readable, no anchors."""
    return HEADER + "---\n".join(_dump(item) for item in objects)


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # no types in the tested set
    """Overrides the choices of SafeDumper that make manifests hard to read."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the base class's signature
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002, FBT002
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, value: str) -> Any:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def _dump(value: Any) -> str:
    text: str = yaml.dump(
        value,
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=False,
        width=100,
        allow_unicode=True,
    )
    return text
