"""The Ray objects of a recipe: a service, a shared cluster, job templates and scheduled jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from heliostat.clusters import kuberay as k
from heliostat.clusters import pods, queues, targets
from heliostat.clusters.recipe import ClusterRecipe, GpuGroup, TpuGroup
from heliostat.clusters.schema import to_manifest
from heliostat.clusters.targets import Pool

Role = Literal["serve", "train", "batch", "dev"]

AUTOSCALER_IDLE_S = 120
SERVE_IDLE_S = 600


def token_secret(recipe: ClusterRecipe) -> str:
    """Name of the Secret with Ray's token, under the key ``auth_token``."""
    return f"{recipe.name}-ray-token"


def cluster_spec(
    recipe: ClusterRecipe, role: Role, *, min_serving: int = 0, with_tpus: bool = True
) -> k.RayClusterSpec:
    """Build the cluster for one role.

    Args:
        recipe: The platform.
        role: What runs there.
        min_serving: Workers of the on-demand CPU pool that always run.
        with_tpus: Whether TPU slices may be asked for.
    """
    drain_s = recipe.serve_drain_s if role == "serve" else recipe.train_drain_s
    account = f"{recipe.name}-{'serve' if role == 'serve' else 'train'}"
    groups = tuple(
        _worker_group(recipe, pool, role, account, drain_s, min_serving)
        for pool in targets.all_pools(recipe)
        if with_tpus or not isinstance(pool.group, TpuGroup)
    )
    head = k.HeadGroupSpec(
        template=pods.head(recipe, account=account, role=role, drain_s=drain_s),
        ray_start_params={
            "num-cpus": "0",
            "dashboard-host": "0.0.0.0",  # noqa: S104 - in its Pod; policies and the token guard it
            "object-spilling-directory": pods.SPILL_PATH,
        },
    )
    return k.RayClusterSpec(
        ray_version=recipe.ray_version,
        enable_in_tree_autoscaling=True,
        autoscaler_options=_autoscaler(role),
        auth_options=k.AuthOptions(mode="token", secret_name=token_secret(recipe)),
        gcs_fault_tolerance_options=_fault_tolerance(recipe, role),
        tls_options=k.TlsOptions(enabled=True) if recipe.mutual_tls else None,
        head_group_spec=head,
        worker_group_specs=groups,
    )


def _autoscaler(role: Role) -> k.AutoscalerOptions:
    return k.AutoscalerOptions(
        version="v2",
        idle_timeout_seconds=SERVE_IDLE_S if role == "serve" else AUTOSCALER_IDLE_S,
        upscaling_mode="Default",
        resources={
            "requests": {"cpu": "500m", "memory": "1Gi"},
            "limits": {"cpu": "500m", "memory": "1Gi"},
        },
        security_context=dict(pods.CONTAINER_SECURITY),
        volume_mounts=(
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the Pod's own
            {"name": "ray", "mountPath": "/tmp/ray"},  # noqa: S108
        ),
    )


def _fault_tolerance(recipe: ClusterRecipe, role: Role) -> k.GcsFaultToleranceOptions | None:
    """Redis for what must survive its head; jobs are repeated instead."""
    if role in ("train", "batch"):
        return None
    if role == "dev" and recipe.fault_tolerance == "rocksdb":
        return k.GcsFaultToleranceOptions(
            backend="rocksdb",
            storage=k.GcsStorage(
                size="10Gi",
                storage_class_name=recipe.storage.volume_class,
                access_modes=("ReadWriteOnce",),
                deletion_policy="Retain",
            ),
        )
    secret = {"name": f"{recipe.name}-redis-gcs", "key": "password"}
    return k.GcsFaultToleranceOptions(
        redis_address=f"redis-gcs.{recipe.platform_namespace}.svc.cluster.local:6379",
        redis_password=k.RedisCredential(value_from={"secretKeyRef": secret}),
    )


def _worker_group(
    recipe: ClusterRecipe, pool: Pool, role: Role, account: str, drain_s: int, min_serving: int
) -> k.WorkerGroupSpec:
    group = pool.group
    always = min_serving if pool.name == recipe.cpu.name else 0
    params = {"object-spilling-directory": pods.SPILL_PATH}
    resources = {"CPU": str(group.size.cpus), "memory": str(_ray_memory_bytes(pool))}
    if isinstance(group, GpuGroup):
        # Written out: Ray's autoscaler does not see slices, shared GPUs or claims by itself.
        resources["GPU"] = str(group.gpus_per_worker)
        if group.cpus_for_ray is not None:
            resources["CPU"] = str(group.cpus_for_ray)
    if isinstance(group, TpuGroup):
        resources["TPU"] = str(group.chips_per_host)
    return k.WorkerGroupSpec(
        group_name=pool.name,
        replicas=always,
        min_replicas=always,
        max_replicas=max(pool.max_workers, always),
        num_of_hosts=group.num_hosts if isinstance(group, TpuGroup) else None,
        priority=pool.priority,
        idle_timeout_seconds=SERVE_IDLE_S if role == "serve" else AUTOSCALER_IDLE_S,
        ray_start_params=params,
        resources=resources,
        labels=targets.market(pool),
        template=pods.worker(recipe, pool, account=account, role=role, drain_s=drain_s),
    )


def _ray_memory_bytes(pool: Pool) -> int:
    """What Ray may plan with: 70 %; the rest is the object store, in the same container."""
    return pool.group.size.memory_gib * 2**30 * 7 // 10


def service(recipe: ClusterRecipe, serve_config: str) -> dict[str, Any]:
    """The gateway and its models, upgraded step by step onto a second cluster."""
    spec = k.RayServiceSpec(
        serve_config_v2=serve_config,
        exclude_head_pod_from_serve_svc=True,
        ray_cluster_deletion_delay_seconds=300,
        upgrade_strategy=k.ServiceUpgradeStrategy(
            type="NewClusterWithIncrementalUpgrade",
            cluster_upgrade_options=k.ClusterUpgradeOptions(
                gateway_class_name=recipe.network.gateway_class,
                step_size_percent=10,
                interval_seconds=30,
                max_surge_percent=50,
            ),
        ),
        ray_cluster_config=cluster_spec(
            recipe, "serve", min_serving=recipe.serve_min_workers, with_tpus=False
        ),
    )
    return _object("RayService", f"{recipe.name}-serve", recipe, spec)


def shared_cluster(recipe: ClusterRecipe) -> dict[str, Any]:
    """The cluster that people submit to while they work."""
    return _object("RayCluster", f"{recipe.name}-dev", recipe, cluster_spec(recipe, "dev"))


def job_spec(
    recipe: ClusterRecipe, role: Role, entrypoint: str, *, deadline_s: int, retries: int
) -> k.RayJobSpec:
    """Build a job on a cluster of its own, gone soon after it ended; admitted by Kueue.

    Args:
        recipe: The platform.
        role: ``train`` or ``batch``: account, priority, queue.
        entrypoint: What runs, in the image's working folder.
        deadline_s: The job is stopped after it.
        retries: New clusters after a failure.
    """
    return k.RayJobSpec(
        entrypoint=entrypoint,
        submission_mode="K8sJobMode",
        submitter_pod_template=_submitter(recipe),
        active_deadline_seconds=deadline_s,
        pre_running_deadline_seconds=3600,
        backoff_limit=retries,
        # Kueue wants this one; deletionRules and Kueue exclude each other.
        shutdown_after_job_finishes=True,
        ttl_seconds_after_finished=600,
        ray_cluster_spec=cluster_spec(recipe, role),
    )


def _submitter(recipe: ClusterRecipe) -> dict[str, Any]:
    resources = {"cpu": "500m", "memory": "1Gi", "ephemeral-storage": "1Gi"}
    return {
        "metadata": {
            "labels": {"app.kubernetes.io/part-of": recipe.name, "heliostat.io/node": "submitter"}
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": dict(pods.POD_SECURITY),
            "containers": [
                {
                    "name": "submitter",
                    "image": recipe.images.pinned(recipe.images.ray),
                    "env": [{"name": "HOME", "value": "/tmp"}],  # noqa: S108
                    "resources": {"requests": dict(resources), "limits": dict(resources)},
                    "securityContext": dict(pods.CONTAINER_SECURITY),
                    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108
                }
            ],
            "volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
        },
    }


def job(
    recipe: ClusterRecipe, name: str, role: Role, entrypoint: str, *,
    deadline_s: int = 24 * 3600, retries: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """A RayJob in the role's queue."""
    spec = job_spec(recipe, role, entrypoint, deadline_s=deadline_s, retries=retries)
    labels = queues.labels(recipe, role)
    return _object("RayJob", f"{recipe.name}-{name}", recipe, spec, labels, queues.ANNOTATIONS)


def scheduled(
    recipe: ClusterRecipe, name: str, role: Role, entrypoint: str, schedule: str
) -> dict[str, Any]:
    """A RayCronJob; it has no history limit, so each job deletes its own cluster."""
    spec = k.RayCronJobSpec(
        schedule=schedule,
        time_zone=recipe.time_zone,
        job_template=job_spec(recipe, role, entrypoint, deadline_s=12 * 3600, retries=1),
    )
    return _object("RayCronJob", f"{recipe.name}-{name}", recipe, spec)


def _object(
    kind: str, name: str, recipe: ClusterRecipe, spec: Any,
    labels: dict[str, str] | None = None, annotations: Mapping[str, str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": recipe.namespace,
        "labels": {"app.kubernetes.io/part-of": recipe.name, **(labels or {})},
    }
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {
        "apiVersion": k.API_VERSION,
        "kind": kind,
        "metadata": metadata,
        "spec": to_manifest(spec),
    }
