"""The custom resources of KubeRay 1.7.0 (`ray.io/v1`) as typed models.

Pod templates, services and other parts of Kubernetes itself stay mappings; they are held against
Kubernetes' own schemas. No client package exists for these kinds (adr/0020).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from heliostat.clusters.schema import Quantity, prop

API_VERSION = "ray.io/v1"
KUBERAY_VERSION = "1.7.0"

Core = Mapping[str, Any]
"""A part that Kubernetes itself defines."""

Policy = Literal["DeleteCluster", "DeleteWorkers", "DeleteSelf", "DeleteNone"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AuthOptions:
    """Ray's token authentication. Only ``mode: token`` turns it on; there is no default."""

    mode: Literal["disabled", "token"] | None = None

    secret_name: str | None = None
    """Secret with the key ``auth_token``; None lets the operator make one."""

    enable_k8s_token_auth: bool | None = prop(name="enableK8sTokenAuth")


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoscalerOptions:
    """The autoscaler's container beside the head; ``version: v2`` must be written."""

    version: Literal["v1", "v2"] | None = None
    idle_timeout_seconds: int | None = None
    upscaling_mode: Literal["Default", "Aggressive", "Conservative"] | None = None
    image: str | None = None
    image_pull_policy: str | None = None
    command: tuple[str, ...] | None = None
    args: tuple[str, ...] | None = None
    resources: Core | None = prop(core="io.k8s.api.core.v1.ResourceRequirements")
    security_context: Core | None = prop(core="io.k8s.api.core.v1.SecurityContext")
    env: tuple[Core, ...] | None = prop(core="io.k8s.api.core.v1.EnvVar")
    env_from: tuple[Core, ...] | None = prop(core="io.k8s.api.core.v1.EnvFromSource")
    volume_mounts: tuple[Core, ...] | None = prop(core="io.k8s.api.core.v1.VolumeMount")


@dataclass(frozen=True, kw_only=True, slots=True)
class RedisCredential:
    """A user name or password, by value (never do) or from a Secret."""

    value: str | None = None
    value_from: Core | None = prop(core="io.k8s.api.core.v1.EnvVarSource")


@dataclass(frozen=True, kw_only=True, slots=True)
class GcsStorage:
    """The volume of the embedded RocksDB backend."""

    size: Quantity | None = None
    storage_class_name: str | None = None
    access_modes: tuple[str, ...] | None = None
    claim_name: str | None = None
    sub_path: str | None = None
    deletion_policy: Literal["DeleteWithCluster", "Retain"] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class GcsFaultToleranceOptions:
    """Where the head keeps its state, so that it can be restarted."""

    backend: Literal["redis", "rocksdb"] | None = None
    redis_address: str | None = None
    redis_username: RedisCredential | None = None
    redis_password: RedisCredential | None = None
    external_storage_namespace: str | None = None
    storage: GcsStorage | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class IngressOptions:
    """An Ingress for the dashboard; prefer none."""

    host: str | None = None
    path: str | None = None
    path_type: Literal["Exact", "Prefix", "ImplementationSpecific"] | None = None
    tls: tuple[Core, ...] | None = prop(core="io.k8s.api.networking.v1.IngressTLS")


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadGroupSpec:
    """The head: control plane only, so it runs no task (``num-cpus: "0"``)."""

    template: Core = prop(core="io.k8s.api.core.v1.PodTemplateSpec", required=True)
    ray_start_params: Mapping[str, str] | None = None
    resources: Mapping[str, str] | None = None
    labels: Mapping[str, str] | None = None
    service_type: str | None = None
    head_service: Core | None = prop(core="io.k8s.api.core.v1.Service")
    enable_ingress: bool | None = None
    ingress_options: IngressOptions | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleStrategy:
    """Written by the autoscaler: which Pods to delete."""

    workers_to_delete: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerGroupSpec:
    """Workers of one shape; the autoscaler changes ``replicas`` between the bounds."""

    group_name: str
    template: Core = prop(core="io.k8s.api.core.v1.PodTemplateSpec", required=True)
    replicas: int | None = prop(default=0)
    min_replicas: int | None = prop(default=0, required=True)
    max_replicas: int | None = prop(default=2147483647, required=True)
    num_of_hosts: int | None = prop(default=1)
    priority: int | None = prop(default=0)
    """Of groups that fit a demand equally, the highest is scaled first (Ray >= 2.56)."""
    idle_timeout_seconds: int | None = None
    ray_start_params: Mapping[str, str] | None = None
    resources: Mapping[str, str] | None = None
    labels: Mapping[str, str] | None = None
    suspend: bool | None = None
    scale_strategy: ScaleStrategy | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkPolicyRules:
    """Additional rules for the head or for all workers."""

    ingress_rules: tuple[Core, ...] | None = prop(
        core="io.k8s.api.networking.v1.NetworkPolicyIngressRule"
    )
    egress_rules: tuple[Core, ...] | None = prop(
        core="io.k8s.api.networking.v1.NetworkPolicyEgressRule"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupNetworkPolicyRules:
    """Rules for one group; they replace those for all workers."""

    group_name: str
    ingress_rules: tuple[Core, ...] | None = prop(
        core="io.k8s.api.networking.v1.NetworkPolicyIngressRule"
    )
    egress_rules: tuple[Core, ...] | None = prop(
        core="io.k8s.api.networking.v1.NetworkPolicyEgressRule"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class RayNetworkPolicy:
    """The operator's own NetworkPolicies (alpha gate RayClusterNetworkPolicy)."""

    mode: Literal["DenyAll", "DenyAllIngress", "DenyAllEgress"] | None = prop(default="DenyAll")
    head: NetworkPolicyRules | None = None
    worker: NetworkPolicyRules | None = None
    worker_groups: tuple[GroupNetworkPolicyRules, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TlsOptions:
    """Mutual TLS between Ray's processes (alpha gate RayClusterMTLS, cert-manager)."""

    enabled: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectorOptions:
    """The container that ships events to the history server."""

    image: str | None = None
    image_pull_policy: str | None = None
    env: tuple[Core, ...] | None = prop(core="io.k8s.api.core.v1.EnvVar")
    resources: Core | None = prop(core="io.k8s.api.core.v1.ResourceRequirements")


@dataclass(frozen=True, kw_only=True, slots=True)
class HistoryServerOptions:
    """Keep the history of a cluster that is gone (alpha gate RayClusterHistoryServer)."""

    collector_options: CollectorOptions | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterUpgradeStrategy:
    """What a change of the spec does to a cluster that a user made."""

    type: Literal["Recreate", "None"] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RayClusterSpec:
    """One Ray cluster: a head and groups of workers."""

    head_group_spec: HeadGroupSpec
    ray_version: str | None = None
    enable_in_tree_autoscaling: bool | None = None
    autoscaler_options: AutoscalerOptions | None = None
    auth_options: AuthOptions | None = None
    gcs_fault_tolerance_options: GcsFaultToleranceOptions | None = None
    worker_group_specs: tuple[WorkerGroupSpec, ...] | None = None
    network_policy: RayNetworkPolicy | None = None
    tls_options: TlsOptions | None = None
    history_server_options: HistoryServerOptions | None = None
    head_service_annotations: Mapping[str, str] | None = None
    managed_by: str | None = None
    suspend: bool | None = None
    upgrade_strategy: ClusterUpgradeStrategy | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterUpgradeOptions:
    """How traffic moves to the new cluster, in steps through the Gateway API."""

    gateway_class_name: str
    step_size_percent: int
    interval_seconds: int
    max_surge_percent: int | None = prop(default=100)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceUpgradeStrategy:
    """What a change of the cluster's config does to a service."""

    type: str | None = None
    cluster_upgrade_options: ClusterUpgradeOptions | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RayServiceSpec:
    """A cluster and the Serve applications that the operator puts on it."""

    ray_cluster_config: RayClusterSpec
    serve_config_v2: str | None = None
    serve_service: Core | None = prop(core="io.k8s.api.core.v1.Service")
    upgrade_strategy: ServiceUpgradeStrategy | None = None
    exclude_head_pod_from_serve_svc: bool | None = None
    ray_cluster_deletion_delay_seconds: int | None = prop(minimum=0)
    service_unhealthy_second_threshold: int | None = None
    deployment_unhealthy_second_threshold: int | None = None
    managed_by: str | None = None
    suspend: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DeletionPolicy:
    """What the deprecated ``onSuccess`` and ``onFailure`` do."""

    policy: Policy | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DeletionCondition:
    """When a rule applies, and how long after."""

    job_status: Literal["SUCCEEDED", "FAILED"] | None = None
    job_deployment_status: Literal["Failed"] | None = None
    ttl_seconds: int | None = prop(default=0, minimum=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class DeletionRule:
    """One thing to delete when a job has ended."""

    policy: Policy
    condition: DeletionCondition


@dataclass(frozen=True, kw_only=True, slots=True)
class DeletionStrategy:
    """What is deleted when; excludes ``shutdownAfterJobFinishes``."""

    deletion_rules: tuple[DeletionRule, ...] | None = prop(min_items=1)
    on_success: DeletionPolicy | None = None
    on_failure: DeletionPolicy | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmitterConfig:
    """The Pod that submits the job."""

    backoff_limit: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RayJobSpec:
    """A job on a cluster of its own, or on one that is named."""

    entrypoint: str | None = None
    ray_cluster_spec: RayClusterSpec | None = None
    cluster_selector: Mapping[str, str] | None = None
    submission_mode: str | None = prop(default="K8sJobMode")
    runtime_env_yaml: str | None = prop(name="runtimeEnvYAML")
    entrypoint_num_cpus: float | None = None
    entrypoint_num_gpus: float | None = None
    entrypoint_resources: str | None = None
    job_id: str | None = None
    metadata: Mapping[str, str] | None = None
    active_deadline_seconds: int | None = None
    pre_running_deadline_seconds: int | None = prop(minimum=1)
    backoff_limit: int | None = prop(default=0)
    shutdown_after_job_finishes: bool | None = None
    ttl_seconds_after_finished: int | None = prop(default=0)
    deletion_strategy: DeletionStrategy | None = None
    submitter_config: SubmitterConfig | None = None
    submitter_pod_template: Core | None = prop(core="io.k8s.api.core.v1.PodTemplateSpec")
    managed_by: str | None = None
    suspend: bool | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RayCronJobSpec:
    """A job on a schedule (alpha gate RayCronJob)."""

    schedule: str
    job_template: RayJobSpec
    time_zone: str | None = prop(min_length=1)
    suspend: bool | None = None


SPECS: dict[str, type] = {
    "RayCluster": RayClusterSpec,
    "RayJob": RayJobSpec,
    "RayService": RayServiceSpec,
    "RayCronJob": RayCronJobSpec,
}
"""The kinds, by name."""
