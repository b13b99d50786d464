"""The operator's own validation of a Ray cluster (KubeRay 1.7, `utils/validation.go`), in our words.

Without webhooks, and the Helm chart has none, the API server takes an invalid object and the
operator only writes an event; so these rules must hold before anything is applied.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from heliostat.clusters.checks.bundle import (
    Bundle,
    Group,
    RaySpec,
    env_of,
    items,
    mapping,
    mappings,
    number,
    version_of,
)
from heliostat.clusters.finding import Finding

_LABEL_VALUE = re.compile(r"^$|^[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$")
_LABEL_KEY = re.compile(
    r"^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$"
)
_DNS_LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
_TLS_ENV = ("RAY_USE_TLS", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
_COLLECTOR_ENV = {
    "POD_IP", "FQ_RAY_IP", "RAY_CLUSTER_NAME", "RAY_CLUSTER_NAMESPACE", "RAY_ROLE", "OWNER_KIND",
    "OWNER_NAME", "EVENTS_PORT",
}  # fmt: skip


def clusters(bundle: Bundle) -> Iterator[Finding]:
    """All rules for all clusters."""
    for cluster in bundle.clusters():
        annotations = mapping(cluster.document.metadata.get("annotations"))
        for rule in (_containers, _group_amounts, _replicas, _autoscaler, _token, _tls, _network):
            yield from rule(cluster)
        yield from _fault_tolerance(cluster, annotations)
        yield from _history(cluster)
        yield from _gates(cluster, bundle.gates)


def _containers(cluster: RaySpec) -> Iterator[Finding]:
    for group in cluster.groups:
        if not group.containers:
            yield _at(cluster, group, "operator.containers", "template.spec.containers", [],
                      "must have at least one container")  # fmt: skip


def _group_amounts(cluster: RaySpec) -> Iterator[Finding]:
    names = [group.name for group in cluster.workers]
    for group in cluster.groups:
        both = sorted({"num-cpus", "num-gpus", "memory", "resources"} & set(group.params))
        if both and mapping(group.spec.get("resources")):
            yield _at(cluster, group, "operator.resources", "resources", both,
                      "must not be combined with amounts in rayStartParams")  # fmt: skip
        if "labels" in group.params:
            yield _at(cluster, group, "operator.labels", "rayStartParams.labels",
                      group.params["labels"], "must be written as the group's labels")  # fmt: skip
        for key, value in mapping(group.spec.get("labels")).items():
            if not _LABEL_KEY.match(str(key)):
                yield _at(cluster, group, "operator.labels", f"labels.{key}", key,
                          "must be a label's key")  # fmt: skip
            if not isinstance(value, str) or not _LABEL_VALUE.match(value):
                yield _at(cluster, group, "operator.labels", f"labels.{key}", value,
                          "must be a label's value: at most 63 of letters, digits, -, _ and .")  # fmt: skip
    for name in {name for name in names if names.count(name) > 1}:
        yield cluster.say("operator.group-name", "workerGroupSpecs", name, "must be unique")


def _replicas(cluster: RaySpec) -> Iterator[Finding]:
    for group in cluster.workers:
        low, high = number(group.spec.get("minReplicas")), number(group.spec.get("maxReplicas"))
        for key, value in (("minReplicas", low), ("maxReplicas", high)):
            if value is not None and value < 0:
                yield _at(cluster, group, "operator.replicas", key, value, "must not be negative")
            if value is None and not cluster.is_autoscaled and group.spec.get(key) is not None:
                yield _at(cluster, group, "operator.replicas", key, group.spec.get(key),
                          "must be a whole number")  # fmt: skip
        if low is not None and high is not None and low > high:
            yield _at(cluster, group, "operator.replicas", "minReplicas", low,
                      f"must be at most maxReplicas {high}")  # fmt: skip
        wanted = number(group.spec.get("replicas"))
        if wanted is not None and not (low or 0) <= wanted <= (2**31 if high is None else high):
            yield _at(cluster, group, "operator.replicas", "replicas", wanted,
                      "must lie between minReplicas and maxReplicas")  # fmt: skip


def _autoscaler(cluster: RaySpec) -> Iterator[Finding]:
    options = mapping(cluster.spec.get("autoscalerOptions"))
    variable = env_of(cluster.head.ray).get("RAY_enable_autoscaler_v2", "")
    has_variable = "RAY_enable_autoscaler_v2" in env_of(cluster.head.ray)
    if not cluster.is_autoscaled and variable in ("1", "true"):
        yield cluster.say("operator.autoscaler", "enableInTreeAutoscaling", False,
                          "must be true where RAY_enable_autoscaler_v2 is set")  # fmt: skip
    if cluster.is_autoscaled and options.get("version") is not None and has_variable:
        yield cluster.say("operator.autoscaler", "autoscalerOptions.version", options["version"],
                          "must not be combined with RAY_enable_autoscaler_v2")  # fmt: skip
    idle = number(options.get("idleTimeoutSeconds"))
    if idle is not None and idle < 0:
        yield cluster.say("operator.idle", "autoscalerOptions.idleTimeoutSeconds", idle,
                          "must not be negative")  # fmt: skip
    if "KUBERAY_GEN_AUTOSCALER_START_CMD" in env_of(options):
        yield cluster.say("operator.autoscaler", "autoscalerOptions.env",
                          "KUBERAY_GEN_AUTOSCALER_START_CMD", "must be left to the operator")  # fmt: skip
    is_v2 = cluster.is_autoscaled_v2 or (cluster.is_autoscaled and variable in ("1", "true"))
    for group in cluster.groups:
        policy = group.pod.get("restartPolicy")
        if cluster.is_autoscaled_v2 and policy not in (None, "", "Never"):
            yield _at(cluster, group, "operator.restart", "template.spec.restartPolicy", policy,
                      "must be Never or unset with autoscaler v2")  # fmt: skip
        if group.spec.get("suspend") is True and cluster.is_autoscaled:
            yield _at(cluster, group, "operator.suspend", "suspend", True,
                      "must not be set with autoscaling")  # fmt: skip
        idle = number(group.spec.get("idleTimeoutSeconds"))
        if idle is not None and idle < 0:
            yield _at(cluster, group, "operator.idle", "idleTimeoutSeconds", idle,
                      "must not be negative")  # fmt: skip
        if idle is not None and not is_v2:
            yield _at(cluster, group, "operator.idle", "idleTimeoutSeconds", idle,
                      "needs autoscalerOptions.version: v2")  # fmt: skip
        yield from _priority(cluster, group, is_v2)


def _priority(cluster: RaySpec, group: Group, is_v2: bool) -> Iterator[Finding]:
    priority = number(group.spec.get("priority"))
    if not priority:
        return
    version = version_of(cluster.spec.get("rayVersion"))
    if version is None or version < (2, 56, 0):
        yield _at(cluster, group, "operator.priority", "priority", priority,
                  "needs rayVersion 2.56.0 or later", f"it is {cluster.spec.get('rayVersion')!r}")  # fmt: skip
    if not is_v2:
        yield _at(cluster, group, "operator.priority", "priority", priority,
                  "needs autoscalerOptions.version: v2")  # fmt: skip


def _token(cluster: RaySpec) -> Iterator[Finding]:
    options = mapping(cluster.spec.get("authOptions"))
    version = version_of(cluster.spec.get("rayVersion"))
    uses_accounts = options.get("enableK8sTokenAuth") is True
    if cluster.has_token and (version is None or version < (2, 52, 0)):
        yield cluster.say("operator.token", "rayVersion", cluster.spec.get("rayVersion"),
                          "must be 2.52.0 or later with authOptions.mode: token")  # fmt: skip
    if not uses_accounts:
        return
    where = "authOptions.enableK8sTokenAuth"
    if not cluster.has_token:
        yield cluster.say("operator.token", where, True, "needs mode: token")
    if version is not None and version < (2, 55, 0):
        yield cluster.say("operator.token", where, True, "needs rayVersion 2.55.0 or later")
    if options.get("secretName"):
        yield cluster.say("operator.token", where, True, "must not be combined with secretName")
    if cluster.document.kind != "RayCluster":
        yield cluster.say("operator.token", where, True,
                          f"must not be set in a {cluster.document.kind}")  # fmt: skip


def _fault_tolerance(cluster: RaySpec, annotations: Mapping[str, Any]) -> Iterator[Finding]:
    options = cluster.spec.get("gcsFaultToleranceOptions")
    head_env = env_of(cluster.head.ray)
    if "redis-username" in cluster.head.params or "REDIS_USERNAME" in head_env:
        yield cluster.say("operator.gcs", "headGroupSpec", "redis username",
                          "must be written as gcsFaultToleranceOptions.redisUsername")  # fmt: skip
    if not isinstance(options, Mapping):
        if "RAY_REDIS_ADDRESS" in head_env and not annotations.get("ray.io/ft-enabled"):
            yield cluster.say("operator.gcs", "headGroupSpec", "RAY_REDIS_ADDRESS",
                              "needs gcsFaultToleranceOptions")  # fmt: skip
        return
    for name in ("REDIS_PASSWORD", "RAY_REDIS_ADDRESS"):
        if name in head_env:
            yield cluster.say("operator.gcs", "headGroupSpec", name,
                              "must be written in gcsFaultToleranceOptions")  # fmt: skip
    if "redis-password" in cluster.head.params:
        yield cluster.say("operator.gcs", "headGroupSpec.rayStartParams", "redis-password",
                          "must be written as gcsFaultToleranceOptions.redisPassword")  # fmt: skip
    for name in ("ray.io/ft-enabled", "ray.io/external-storage-namespace"):
        if annotations.get(name):
            yield cluster.say("operator.gcs", "gcsFaultToleranceOptions", name,
                              "must not be combined with this annotation")  # fmt: skip
    yield from _backend(cluster, options, head_env)


def _backend(
    cluster: RaySpec, options: Mapping[str, Any], head_env: Mapping[str, Any]
) -> Iterator[Finding]:
    where = "gcsFaultToleranceOptions"
    storage = options.get("storage")
    if options.get("backend") != "rocksdb":
        if storage is not None:
            yield cluster.say("operator.gcs", f"{where}.storage", sorted(mapping(storage)),
                              "needs backend: rocksdb")  # fmt: skip
        return
    for key in ("redisAddress", "redisUsername", "redisPassword", "externalStorageNamespace"):
        if options.get(key):
            yield cluster.say("operator.gcs", f"{where}.{key}", "...",
                              "must not be set with backend: rocksdb")  # fmt: skip
    storage = mapping(storage)
    more = sorted({"size", "storageClassName", "accessModes"} & set(storage))
    if storage.get("claimName") and more:
        yield cluster.say("operator.gcs", f"{where}.storage.claimName", storage["claimName"],
                          "must not be combined with " + ", ".join(more))  # fmt: skip
    for name in (
        "RAY_GCS_STORAGE",
        "RAY_GCS_STORAGE_PATH",
        "RAY_gcs_storage",
        "RAY_gcs_storage_path",
    ):
        if name in head_env:
            yield cluster.say("operator.gcs", "headGroupSpec", name, "must be left to the operator")
    mounts = mappings(cluster.head.ray.get("volumeMounts"))
    taken = any(m.get("name") == "gcs-storage" or m.get("mountPath") == "/data/gcs" for m in mounts)
    volumes = mappings(cluster.head.pod.get("volumes"))
    if taken or any(volume.get("name") == "gcs-storage" for volume in volumes):
        yield cluster.say("operator.gcs", "headGroupSpec", "gcs-storage",
                          "must be left to the operator")  # fmt: skip


def _network(cluster: RaySpec) -> Iterator[Finding]:
    policy = cluster.spec.get("networkPolicy")
    if not isinstance(policy, Mapping):
        return
    mode = policy.get("mode", "DenyAll")
    groups = mappings(policy.get("workerGroups"))
    parts = [("head", policy.get("head")), ("worker", policy.get("worker"))]
    parts += [(f"workerGroups[{item.get('groupName')}]", item) for item in groups]
    for name, written in parts:
        part = mapping(written)
        for refused, key in (("DenyAllEgress", "ingressRules"), ("DenyAllIngress", "egressRules")):
            if mode == refused and items(part.get(key)):
                yield cluster.say("operator.network", f"networkPolicy.{name}.{key}", "...",
                                  f"must not be set with mode {mode}: it does not restrict these")  # fmt: skip
    known = {group.name for group in cluster.workers}
    for name in known:
        if not _DNS_LABEL.match(name):
            yield cluster.say("operator.network", "workerGroupSpecs", name,
                              "must be a DNS label with networkPolicy")  # fmt: skip
    for item in groups:
        if str(item.get("groupName")) not in known:
            yield cluster.say("operator.network", "networkPolicy.workerGroups",
                              item.get("groupName"), "must name a worker group")  # fmt: skip


def _tls(cluster: RaySpec) -> Iterator[Finding]:
    if mapping(cluster.spec.get("tlsOptions")).get("enabled") is not True:
        return
    parts: list[tuple[str, Mapping[str, Any]]] = [
        (group.path.removeprefix(f"{cluster.path}."), group.ray) for group in cluster.groups
    ]
    parts.append(("autoscalerOptions", mapping(cluster.spec.get("autoscalerOptions"))))
    for where, part in parts:
        for name in _TLS_ENV:
            if name in env_of(part):
                yield cluster.say("operator.tls", where, name, "must be left to the operator")
        for mount in mappings(part.get("volumeMounts")):
            if mount.get("name") == "ray-tls" or mount.get("mountPath") == "/etc/ray/tls":
                yield cluster.say("operator.tls", where, mount.get("mountPath"),
                                  "must be left to the operator")  # fmt: skip


def _history(cluster: RaySpec) -> Iterator[Finding]:
    options = cluster.spec.get("historyServerOptions")
    if not isinstance(options, Mapping):
        return
    where = "historyServerOptions.collectorOptions"
    collector = options.get("collectorOptions")
    if not isinstance(collector, Mapping):
        yield cluster.say("operator.history", where, collector, "must be set")
        return
    if not collector.get("image"):
        yield cluster.say("operator.history", f"{where}.image", None, "must be set")
    env = env_of(collector)
    for name in sorted(_COLLECTOR_ENV & set(env)):
        yield cluster.say("operator.history", f"{where}.env", name, "must be left to the operator")
    backend = env.get("STORAGE_BACKEND")
    if not backend:
        yield cluster.say("operator.history", f"{where}.env", "STORAGE_BACKEND", "must be set")
    needed = {"GCS": ("GCS_BUCKET",), "S3": ("S3_REGION",),
              "ALIYUNOSS": ("ALIYUN_BUCKET", "ALIYUN_ENDPOINT", "ALIYUN_REGION")}  # fmt: skip
    for name in needed.get(str(backend).upper(), ()):
        if name not in env:
            yield cluster.say(
                "operator.history", f"{where}.env", name, f"must be set for {backend}"
            )
    azure = ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_URL")
    if str(backend).upper() == "AZUREBLOB" and not set(azure) & set(env):
        yield cluster.say("operator.history", f"{where}.env", azure, "must have one of these")


_GATED = {
    "networkPolicy": "RayClusterNetworkPolicy",
    "tlsOptions": "RayClusterMTLS",
    "historyServerOptions": "RayClusterHistoryServer",
}


def _gates(cluster: RaySpec, gates: Mapping[str, bool] | None) -> Iterator[Finding]:
    needed = {key: gate for key, gate in _GATED.items() if cluster.spec.get(key) is not None}
    storage = mapping(cluster.spec.get("gcsFaultToleranceOptions"))
    if storage.get("backend") == "rocksdb":
        needed["gcsFaultToleranceOptions.backend"] = "GCSFaultToleranceEmbeddedStorage"
    for key, gate in needed.items():
        if gates is None:
            yield cluster.say("operator.gate", key, gate, "needs this gate of the operator",
                              "it is alpha and off unless the Helm values turn it on", "warning")  # fmt: skip
        elif not gates.get(gate, False):
            yield cluster.say("operator.gate", key, gate, "needs this gate of the operator",
                              "the Helm values leave it off; the operator refuses the object")  # fmt: skip


def _at(
    cluster: RaySpec, group: Group, check: str, key: str, value: Any, rule: str,
    breaks: str | None = None,
) -> Finding:  # fmt: skip
    path = f"{group.path}.{key}".removeprefix(f"{cluster.path}.")
    return cluster.say(check, path, value, rule, breaks)
