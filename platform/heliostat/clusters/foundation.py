"""What everything else stands on: namespaces, accounts, priorities, quotas, volumes, image pull."""

from __future__ import annotations

from typing import Any

from heliostat.clusters import pods, targets
from heliostat.clusters.recipe import ClusterRecipe, GpuGroup, TpuGroup

PRIORITIES = {"head": 100_000, "serve": 50_000, "dev": 20_000, "train": 10_000, "batch": 1_000}
"""Who goes when nodes are short: the head last, batch first."""


def part_of(recipe: ClusterRecipe) -> dict[str, str]:
    """The label that all our objects carry."""
    return {"app.kubernetes.io/part-of": recipe.name}


def metadata(recipe: ClusterRecipe, name: str, namespace: str | None = None) -> dict[str, Any]:
    """Metadata of an object of ours; no namespace for objects of the whole cluster."""
    found: dict[str, Any] = {"name": name, "labels": part_of(recipe)}
    if namespace is not None:
        found["namespace"] = namespace
    return found


def namespaces(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    """Both namespaces refuse any Pod that is not restricted."""
    level = {
        f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")
    }
    found = []
    for name in (recipe.namespace, recipe.platform_namespace):
        body = metadata(recipe, name)
        body["labels"] = {**body["labels"], **level}
        found.append({"apiVersion": "v1", "kind": "Namespace", "metadata": body})
    return found


def accounts(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    """Serving reads packages, training writes them, MLflow writes artifacts: three identities."""
    places = (
        ("serve", f"{recipe.name}-serve", recipe.namespace),
        ("train", f"{recipe.name}-train", recipe.namespace),
        ("mlflow", "mlflow", recipe.platform_namespace),
    )
    found: list[dict[str, Any]] = []
    for account, name, namespace in places:
        body = metadata(recipe, name, namespace)
        if annotations := targets.account_annotations(recipe, account):
            body["annotations"] = annotations
        found.append(
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": body,
                "automountServiceAccountToken": False,
            }
        )
    return found


def priority_classes(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    """The head outlives serving, serving outlives training; batch preempts nobody."""
    return [
        {
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": metadata(recipe, f"{recipe.name}-{role}"),
            "value": value,
            "globalDefault": False,
            "preemptionPolicy": "Never" if role == "batch" else "PreemptLowerPriority",
            "description": f"Heliostat: {role}",
        }
        for role, value in PRIORITIES.items()
    ]


def quotas(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    """Room for every role at full size at once, twice for the service: an upgrade has two."""
    cpus, memory, gpus, chips = 0, 0, 0, 0
    for pool in targets.all_pools(recipe):
        size = pool.group.size
        num_hosts = pool.group.num_hosts if isinstance(pool.group, TpuGroup) else 1
        cpus += size.cpus * pool.max_workers * num_hosts
        memory += size.memory_gib * pool.max_workers * num_hosts
        if isinstance(pool.group, GpuGroup):
            gpus += pool.group.gpus_per_worker * pool.max_workers
        if isinstance(pool.group, TpuGroup):
            chips += pool.group.chips_per_host * pool.max_workers * num_hosts
    num_clusters = 5
    hard: dict[str, Any] = {
        "requests.cpu": str(num_clusters * (cpus + 8)),
        "requests.memory": f"{num_clusters * (memory + 32)}Gi",
        "limits.cpu": str(num_clusters * (cpus + 8)),
        "limits.memory": f"{num_clusters * (memory + 32)}Gi",
        "services.loadbalancers": "0",
        "services.nodeports": "0",
    }
    if gpus:
        hard["requests.nvidia.com/gpu"] = str(num_clusters * gpus)
    if chips:
        hard["requests.google.com/tpu"] = str(num_clusters * chips)
    return [
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": metadata(recipe, recipe.name, recipe.namespace),
            "spec": {"hard": hard},
        },
        {
            "apiVersion": "v1",
            "kind": "LimitRange",
            "metadata": metadata(recipe, recipe.name, recipe.namespace),
            "spec": {
                "limits": [
                    {
                        "type": "Container",
                        "default": {"cpu": "500m", "memory": "512Mi"},
                        "defaultRequest": {"cpu": "200m", "memory": "256Mi"},
                    }
                ]
            },
        },
    ]


def volumes(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    """The class of encrypted volumes, where the target lets us render one, and the shared volume."""
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(recipe, pods.shared_claim(recipe), recipe.namespace),
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": recipe.storage.shared_class,
            "resources": {"requests": {"storage": f"{recipe.storage.shared_gib}Gi"}},
        },
    }
    found = targets.storage_class(recipe)
    if found is None:
        return [claim]
    found["metadata"]["labels"] = part_of(recipe)
    return [found, claim]


def image_pull(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    """A DaemonSet whose init containers pull the images, so that scaling up does not wait."""
    security = dict(pods.CONTAINER_SECURITY)
    resources = {"cpu": "10m", "memory": "32Mi", "ephemeral-storage": "10Mi"}
    limits = {"requests": resources, "limits": resources}
    images = {"cpu": recipe.images.ray}
    if recipe.gpus:
        images["gpu"] = recipe.images.ray_gpu
    found = []
    for variant, image in images.items():
        pools = [
            pool.name
            for pool in targets.all_pools(recipe)
            if isinstance(pool.group, GpuGroup) == (variant == "gpu")
        ]
        labels = {"heliostat.io/image": variant}
        found.append(
            {
                "apiVersion": "apps/v1",
                "kind": "DaemonSet",
                "metadata": metadata(recipe, f"{recipe.name}-image-{variant}", recipe.namespace),
                "spec": {
                    "selector": {"matchLabels": labels},
                    "template": {
                        "metadata": {"labels": {**part_of(recipe), **labels}},
                        "spec": {
                            "automountServiceAccountToken": False,
                            "enableServiceLinks": False,
                            "terminationGracePeriodSeconds": 1,
                            "securityContext": dict(pods.POD_SECURITY),
                            "tolerations": [{"operator": "Exists"}],
                            "affinity": _on_pools(pools),
                            "initContainers": [
                                {
                                    "name": "pull",
                                    "image": recipe.images.pinned(image),
                                    "command": ["true"],
                                    "resources": limits,
                                    "securityContext": security,
                                }
                            ],
                            "containers": [
                                {
                                    "name": "pause",
                                    "image": recipe.images.pinned(recipe.images.pause),
                                    "resources": limits,
                                    "securityContext": security,
                                }
                            ],
                        },
                    },
                },
            }
        )
    return found


def _on_pools(names: list[str]) -> dict[str, Any]:
    expression = {"key": targets.POOL_LABEL, "operator": "In", "values": names}
    return {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [expression]}]
            }
        }
    }
