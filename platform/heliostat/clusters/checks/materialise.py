"""The Pods that the operator would make of a Ray cluster, so that rules for Pods can be applied.

Follows KubeRay 1.7: what it adds to a template (command, environment, /dev/shm, probes, the
autoscaler beside the head, the container that waits for the head) and nothing else.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from heliostat.clusters.checks import shape
from heliostat.clusters.checks.bundle import Group, RaySpec, mapping, mappings

_V2 = {"name": "RAY_enable_autoscaler_v2", "value": "1"}
"""What the operator makes of ``autoscalerOptions.version: v2``; without it Ray starts the old one."""

_PROBE = {
    "httpGet": {"path": "/api/healthz", "port": 52365},
    "initialDelaySeconds": 30,
    "periodSeconds": 5,
    "timeoutSeconds": 2,
    "failureThreshold": 120,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class MadePod:
    """One Pod, and where its template stands."""

    group: Group
    body: Mapping[str, Any]


def pods(cluster: RaySpec) -> Iterator[MadePod]:
    """Make the head's Pod and one Pod of each group; none for a template without containers."""
    for group in cluster.groups:
        if group.containers:
            yield MadePod(group=group, body=_pod(cluster, group))


def _pod(cluster: RaySpec, group: Group) -> dict[str, Any]:
    spec = _copied(group.pod)
    containers = [_copied(item) for item in group.containers]
    spec["containers"] = containers
    spec["volumes"] = [_copied(item) for item in mappings(group.pod.get("volumes"))]
    _ray_container(cluster, group, containers[0])
    memory = mapping(mapping(containers[0].get("resources")).get("limits")).get("memory")
    if "plasma-directory" not in group.params:
        shared: dict[str, Any] = {"medium": "Memory"}
        if memory is not None:
            shared["sizeLimit"] = memory
        _add_volume(spec, containers[0], "shared-mem", "/dev/shm", shared)  # noqa: S108
    if group.is_head:
        if cluster.is_autoscaled:
            containers.append(_autoscaler(cluster, containers[0]))
            for container in (containers[0], containers[-1]):
                _add_volume(spec, container, "ray-logs", "/tmp/ray", {})  # noqa: S108
    else:
        waiting = [_copied(item) for item in mappings(group.pod.get("initContainers"))]
        spec["initContainers"] = [*waiting, _waiting(containers[0])]
    if cluster.is_autoscaled_v2:
        spec["restartPolicy"] = "Never"
    labels = {
        **mapping(mapping(group.template.get("metadata")).get("labels")),
        "ray.io/node-type": "head" if group.is_head else "worker",
        "ray.io/group": "headgroup" if group.is_head else group.name,
        "ray.io/is-ray-node": "yes",
        "ray.io/cluster": cluster.document.name or "cluster",
    }
    metadata: dict[str, Any] = {
        "name": "pod",
        "namespace": cluster.document.namespace,
        "labels": labels,
    }
    annotations = mapping(mapping(group.template.get("metadata")).get("annotations"))
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _ray_container(cluster: RaySpec, group: Group, container: dict[str, Any]) -> None:
    words = ["ray", "start", *(["--head"] if group.is_head else [])]
    words += [
        f"--{key}" if value == "true" else f"--{key}={shlex.quote(str(value))}"
        for key, value in start_parameters(cluster, group).items()
    ]
    container.setdefault("name", "ray")
    container["command"] = ["/bin/bash", "-c", "--"]
    container["args"] = ["ulimit -n 65536; " + " ".join(words)]
    env = [_copied(item) for item in mappings(container.get("env"))]
    added: list[dict[str, Any]] = [
        {"name": "RAY_CLUSTER_NAME", "value": cluster.document.name},
        {"name": "RAY_CLOUD_INSTANCE_ID",
         "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "RAY_NODE_TYPE_NAME",
         "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['ray.io/group']"}}},
        {"name": "RAY_PORT", "value": "6379"},
        {"name": "RAY_ADDRESS",
         "value": "127.0.0.1:6379" if group.is_head else f"{head_service(cluster)}:6379"},
    ]  # fmt: skip
    if cluster.has_token:
        options = mapping(cluster.spec.get("authOptions"))
        name = options.get("secretName") or cluster.document.name
        reference = {"secretKeyRef": {"name": name, "key": "auth_token"}}
        added += [
            {"name": "RAY_AUTH_MODE", "value": "token"},
            {"name": "RAY_AUTH_TOKEN", "valueFrom": reference},
        ]
    if group.is_head and cluster.is_autoscaled_v2:
        added.append(dict(_V2))
    taken = {str(item.get("name")) for item in env}
    container["env"] = [*env, *(item for item in added if item["name"] not in taken)]
    container.setdefault("livenessProbe", _copied(_PROBE))
    container.setdefault("readinessProbe", _copied(_PROBE))
    ports = [_copied(item) for item in mappings(container.get("ports"))]
    if not any(item.get("name") == "metrics" for item in ports):
        ports.append({"name": "metrics", "containerPort": 8080})
    container["ports"] = ports


def start_parameters(cluster: RaySpec, group: Group) -> dict[str, str]:
    """Give what the operator starts Ray with: what is written, and what it adds where nothing is.

    Amounts come from the group's ``resources``, else from the limits of the Ray container; labels
    become ``--labels``.
    """
    found = {str(key): str(value) for key, value in group.params.items()}
    limits = mapping(mapping(group.ray.get("resources")).get("limits"))
    written = mapping(group.spec.get("resources"))
    amounts: dict[str, Any] = {
        "CPU": limits.get("cpu"), "memory": limits.get("memory"), **written,
    }  # fmt: skip
    if "GPU" not in written:
        amounts["GPU"] = next((limits[key] for key in limits if str(key).endswith("/gpu")), None)
    custom = {}
    for name, value in amounts.items():
        number = shape.quantity(value)
        if number is None:
            continue
        key = {"CPU": "num-cpus", "GPU": "num-gpus", "memory": "memory"}.get(str(name))
        if key is None:
            custom[str(name)] = number
        else:
            found.setdefault(key, str(math.ceil(number)))
    if custom:
        found.setdefault("resources", json.dumps(custom))
    if labels := mapping(group.spec.get("labels")):
        found.setdefault("labels", ",".join(f"{key}={value}" for key, value in labels.items()))
    if group.is_head:
        found.setdefault("dashboard-host", "0.0.0.0")  # noqa: S104 - inside its Pod
        if cluster.is_autoscaled:
            found.setdefault("no-monitor", "true")
    else:
        found.setdefault("address", f"{head_service(cluster)}:6379")
    found.setdefault("metrics-export-port", "8080")
    found.setdefault("dashboard-agent-listen-port", "52365")
    found.setdefault("block", "true")
    return found


def head_service(cluster: RaySpec) -> str:
    """Name of the Service that the operator makes for a head."""
    item = cluster.document
    return f"{item.name}-head-svc.{item.namespace}.svc.cluster.local"


def _autoscaler(cluster: RaySpec, ray: Mapping[str, Any]) -> dict[str, Any]:
    options = mapping(cluster.spec.get("autoscalerOptions"))
    container: dict[str, Any] = {
        "name": "autoscaler",
        "image": options.get("image") or ray.get("image"),
        "command": ["/bin/bash", "-c", "--"],
        "args": [
            "ray kuberay-autoscaler --cluster-name $(RAY_CLUSTER_NAME) --cluster-namespace $(RAY_CLUSTER_NAMESPACE)"
        ],
        "env": [
            *(_copied(item) for item in mappings(options.get("env"))),
            *([dict(_V2)] if cluster.is_autoscaled_v2 else []),
        ],
        "resources": _copied(mapping(options.get("resources")))
        or {
            "limits": {"cpu": "500m", "memory": "512Mi"},
            "requests": {"cpu": "500m", "memory": "512Mi"},
        },
        "volumeMounts": [_copied(item) for item in mappings(options.get("volumeMounts"))],
    }
    if isinstance(options.get("securityContext"), Mapping):
        container["securityContext"] = _copied(options["securityContext"])
    return container


def _waiting(ray: Mapping[str, Any]) -> dict[str, Any]:
    amount = {"cpu": "200m", "memory": "256Mi"}
    container: dict[str, Any] = {
        "name": "wait-gcs-ready",
        "image": ray.get("image"),
        "command": ["/bin/bash", "-c", "--"],
        "args": ["until ray health-check; do sleep 5; done"],
        "env": _copied(ray.get("env")),
        "volumeMounts": _copied(ray.get("volumeMounts")) or [],
        "resources": {"limits": amount, "requests": amount},
    }
    if isinstance(ray.get("securityContext"), Mapping):
        container["securityContext"] = _copied(ray["securityContext"])
    return container


def _add_volume(
    spec: dict[str, Any], container: dict[str, Any], name: str, path: str, source: dict[str, Any]
) -> None:
    """Mount an empty volume, unless the path is mounted already."""
    mounts = [_copied(item) for item in mappings(container.get("volumeMounts"))]
    if not any(item.get("mountPath") == path for item in mounts):
        mounts.append({"name": name, "mountPath": path})
        if not any(item.get("name") == name for item in spec["volumes"]):
            spec["volumes"].append({"name": name, "emptyDir": source})
    container["volumeMounts"] = mounts


def _copied(value: Any) -> Any:
    """Copy one level: nothing below it is ever changed here."""
    return dict(value) if isinstance(value, Mapping) else value
