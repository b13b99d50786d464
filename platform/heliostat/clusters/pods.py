"""Pod templates of heads and workers: restricted, read-only, drained before they are killed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heliostat.clusters import targets
from heliostat.clusters.recipe import ClusterRecipe, GpuGroup, Size, TpuGroup
from heliostat.clusters.targets import Pool
from heliostat.serving import ingress

UID, GID = 1000, 100
"""User and group of Ray's images."""
GRACE_BEYOND_DRAIN_S = 30
"""Kubernetes' default grace equals Ray's default drain, so Pods would be killed in mid-drain."""
SPILL_PATH = "/spill"
DATA_PATH = "/data"

POD_SECURITY: Mapping[str, Any] = {
    "runAsNonRoot": True,
    "runAsUser": UID,
    "runAsGroup": GID,
    "fsGroup": GID,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Mapping[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
}
_HEAD_PORTS = {"gcs": 6379, "dashboard": 8265, "client": 10001, "serve": 8000, "metrics": 8080,
               "as-metrics": 44217, "dash-metrics": 44227}  # fmt: skip
_WORKER_PORTS = {"serve": 8000, "metrics": 8080}


def head(recipe: ClusterRecipe, *, account: str, role: str, drain_s: int) -> dict[str, Any]:
    """Build the head's template: on-demand nodes only, no task, not evicted for packing.

    Args:
        recipe: The cluster.
        account: Service account.
        role: ``serve``, ``train``, ``batch`` or ``dev``: labels, priority, log stream.
        drain_s: Time that Ray may take to drain.
    """
    size = Size(cpus=2, memory_gib=8, spill_gib=20)
    pod = _pod(recipe, recipe.images.ray, size, {}, _HEAD_PORTS, role=role, drain_s=drain_s)
    pod["spec"].update(
        serviceAccountName=account,
        # The operator gives this account the autoscaler's rights; workers get no token at all.
        automountServiceAccountToken=True,
        priorityClassName=f"{recipe.name}-head",
        nodeSelector={targets.POOL_LABEL: "system"},
    )
    pod["metadata"]["annotations"] = {
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
    }
    pod["metadata"]["labels"]["heliostat.io/node"] = "head"
    return pod


def worker(
    recipe: ClusterRecipe, pool: Pool, *, account: str, role: str, drain_s: int
) -> dict[str, Any]:
    """Build a worker's template for one pool."""
    group = pool.group
    image = recipe.images.ray_gpu if isinstance(group, GpuGroup) else recipe.images.ray
    accelerators = targets.accelerators(pool)
    pod = _pod(recipe, image, group.size, accelerators, _WORKER_PORTS, role=role, drain_s=drain_s)
    spec = pod["spec"]
    spec.update(
        serviceAccountName=account,
        automountServiceAccountToken=False,
        priorityClassName=f"{recipe.name}-{role}",
        nodeSelector=targets.node_selector(recipe.target, pool),
    )
    if accepted := targets.tolerations(recipe.target, pool):
        spec["tolerations"] = accepted
    pod["metadata"]["labels"].update(
        {"heliostat.io/node": "worker", "heliostat.io/group": pool.name}
    )
    if role == "serve":
        spec["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {
                    "matchLabels": {"heliostat.io/role": role, "heliostat.io/group": pool.name}
                },
            }
        ]
    container = spec["containers"][0]
    if isinstance(group, GpuGroup) and group.sharing == "dra":
        spec["resourceClaims"] = [
            {"name": "gpu", "resourceClaimTemplateName": f"{recipe.name}-{group.name}"}
        ]
        container["resources"]["claims"] = [{"name": "gpu"}]
    if isinstance(group, GpuGroup) and recipe.target == "onprem":
        spec["runtimeClassName"] = "nvidia"
    if not isinstance(group, GpuGroup | TpuGroup):
        # A Pod without GPU on a node that has some must not see them.
        container["env"].append({"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"})
    return pod


def _pod(
    recipe: ClusterRecipe, image: str, size: Size, accelerators: Mapping[str, Any],
    ports: Mapping[str, int], *, role: str, drain_s: int,
) -> dict[str, Any]:  # fmt: skip
    resources: dict[str, Any] = {
        "cpu": size.cpus,
        "memory": f"{size.memory_gib}Gi",
        "ephemeral-storage": f"{size.spill_gib + 20}Gi",
        **accelerators,
    }
    labels = {
        "app.kubernetes.io/part-of": recipe.name,
        "heliostat.io/role": role,
        **targets.identity_labels(recipe.target),
    }
    container = {
        "name": "ray",
        "image": recipe.images.pinned(image),
        "imagePullPolicy": "IfNotPresent",
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        "env": _environment(recipe, drain_s, role),
        "resources": {"requests": dict(resources), "limits": dict(resources)},
        "securityContext": dict(CONTAINER_SECURITY),
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the Pod's own
            {"name": "ray", "mountPath": "/tmp/ray"},  # noqa: S108
            {"name": "home", "mountPath": "/home/ray"},
            {"name": "spill", "mountPath": SPILL_PATH},
            {"name": "data", "mountPath": DATA_PATH},
        ],
    }
    return {
        "metadata": {"labels": labels},
        "spec": {
            "terminationGracePeriodSeconds": drain_s + GRACE_BEYOND_DRAIN_S,
            "securityContext": dict(POD_SECURITY),
            "enableServiceLinks": False,
            "containers": [container, _log_shipper(recipe, role)],
            "volumes": [
                {"name": "tmp", "emptyDir": {"sizeLimit": "5Gi"}},
                {"name": "ray", "emptyDir": {"sizeLimit": "5Gi"}},
                {"name": "home", "emptyDir": {"sizeLimit": "5Gi"}},
                {
                    "name": "data",
                    "persistentVolumeClaim": {"claimName": shared_claim(recipe)},
                },
                {"name": "spill", "emptyDir": {"sizeLimit": f"{size.spill_gib}Gi"}},
                {"name": "logs-config", "configMap": {"name": f"{recipe.name}-fluent-bit"}},
            ],
        },
    }


def shared_claim(recipe: ClusterRecipe) -> str:
    """Name of the claim behind `DATA_PATH`: packages, keys, tables and state of all Pods."""
    return f"{recipe.name}-shared"


def gateway_url(recipe: ClusterRecipe) -> str:
    """Where jobs reach the gateway and the controller: the operator's Service of the RayService."""
    return f"http://{recipe.name}-serve-serve-svc.{recipe.namespace}.svc.cluster.local:8000"


def database_host(recipe: ClusterRecipe) -> str:
    """Where PostgreSQL listens: the managed one, or the Service of the rendered one."""
    return recipe.database_host or f"postgres.{recipe.platform_namespace}.svc.cluster.local"


def database_secret(recipe: ClusterRecipe) -> str:
    """Name of the Secret with PostgreSQL's password, under the key ``password``."""
    return f"{recipe.name}-postgres"


def control_secret(recipe: ClusterRecipe) -> str:
    """Name of the Secret with the key by which jobs speak to the controller."""
    return f"{recipe.name}-control-key"


def _environment(recipe: ClusterRecipe, drain_s: int, role: str) -> list[dict[str, Any]]:
    platform = recipe.platform_namespace
    values = {
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(drain_s),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_PROMETHEUS_HOST": f"http://prometheus-operated.{recipe.network.monitoring_namespace}:9090",
        "MLFLOW_TRACKING_URI": f"http://mlflow.{platform}.svc.cluster.local:5000",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "ORT_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "FEAST_USAGE": "False",
        "HELIOSTAT_HOME": DATA_PATH,
        # SQLite on the shared volume would be written by several machines.
        "HELIOSTAT_STATE_URL": f"postgresql+psycopg://heliostat@{database_host(recipe)}:5432/heliostat",
        "HELIOSTAT_ONLINE_STORE": f"redis://redis-online.{platform}.svc.cluster.local:6379/0",
        "HELIOSTAT_BUCKET": recipe.storage.bucket,
        "HELIOSTAT_ENDPOINT": gateway_url(recipe),
        "HELIOSTAT_DASHBOARD": "http://127.0.0.1:8265",
        "RAY_SERVE_HAPROXY_BINARY_PATH": "/opt/heliostat/haproxy",
        **ingress.variables(),
    }
    if recipe.storage.endpoint:
        values["AWS_ENDPOINT_URL"] = recipe.storage.endpoint
    found: list[dict[str, Any]] = [{"name": key, "value": item} for key, item in values.items()]
    secret = {"name": f"{recipe.name}-online-store", "key": "password"}
    found.append({"name": "HELIOSTAT_REDIS_PASSWORD", "valueFrom": {"secretKeyRef": secret}})
    secret = {"name": database_secret(recipe), "key": "password"}
    found.append({"name": "HELIOSTAT_STATE_PASSWORD", "valueFrom": {"secretKeyRef": secret}})
    if role != "serve":
        key = {"name": control_secret(recipe), "key": "api_key"}
        found.append({"name": "HELIOSTAT_API_KEY", "valueFrom": {"secretKeyRef": key}})
    return found


def _log_shipper(recipe: ClusterRecipe, role: str) -> dict[str, Any]:
    """Fluent Bit beside Ray: logs leave the Pod before it does."""
    return {
        "name": "fluent-bit",
        "image": recipe.images.pinned(recipe.images.fluent_bit),
        "imagePullPolicy": "IfNotPresent",
        "args": ["--config=/fluent-bit/etc/fluent-bit.yaml"],
        "env": [{"name": "HELIOSTAT_ROLE", "value": role}],
        "resources": {
            "requests": {"cpu": "50m", "memory": "128Mi", "ephemeral-storage": "100Mi"},
            "limits": {"cpu": "200m", "memory": "128Mi", "ephemeral-storage": "100Mi"},
        },
        "securityContext": dict(CONTAINER_SECURITY),
        "volumeMounts": [
            {"name": "ray", "mountPath": "/tmp/ray", "readOnly": True},  # noqa: S108
            {"name": "logs-config", "mountPath": "/fluent-bit/etc", "readOnly": True},
        ],
    }
