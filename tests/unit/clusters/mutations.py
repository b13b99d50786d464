"""Faults planted one at a time into rendered manifests, with the check that must name each.

A path walks keys and list positions; `GONE` deletes. Faults of references are judged with all
documents of the target, the others with their own document alone.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

GONE: Any = object()

SPEC = "spec"
CONFIG = "spec.rayClusterConfig"
JOB = "spec.rayClusterSpec"
HEAD = "headGroupSpec.template.spec"
RAY = f"{SPEC}.{HEAD}.containers.0"
GPU = f"{SPEC}.workerGroupSpecs.2"
SERVE = "spec.serveConfigV2"
UPGRADE = "spec.upgradeStrategy.clusterUpgradeOptions"
POD = "spec.template.spec"


@dataclass(frozen=True, kw_only=True)
class Mutation:
    check: str
    kind: str
    changes: tuple[tuple[str, Any], ...]
    name: str | None = None
    is_whole: bool = False

    def __str__(self) -> str:
        path, value = self.changes[0]
        shown = "gone" if value is GONE else str(value)[:40]
        return f"{self.kind}:{path}={shown}->{self.check}"


def m(check: str, kind: str, *changes: tuple[str, Any], name: str | None = None) -> Mutation:
    is_whole = check.startswith(("reference.", "network.", "kueue.queue", "kueue.flavor"))
    return Mutation(check=check, kind=kind, changes=changes, name=name, is_whole=is_whole)


def apply(body: dict[str, Any], changes: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Give a changed copy; a change of text in a text is written (path, (old, new))."""
    body = copy.deepcopy(body)
    for path, value in changes:
        *steps, last = path.split("|") if "|" in path else path.split(".")
        node: Any = body
        for step in steps:
            node = node[int(step)] if isinstance(node, list) else node.setdefault(step, {})
        if isinstance(node, list):
            if last == "+":
                node.append(value)
            elif value is GONE:
                del node[int(last)]
            else:
                node[int(last)] = value
        elif value is GONE:
            del node[last]
        elif isinstance(value, tuple):
            assert value[0] in node[last]
            node[last] = node[last].replace(*value)
        else:
            node[last] = value
    return body


ENV = f"{RAY}.env.+"
SECURITY = f"{RAY}.securityContext"

MUTATIONS = (
    # Shape: what the API server refuses or drops.
    m("object.kind", "RayCluster", ("apiVersion", GONE)),
    m("object.name", "RayCluster", ("metadata.name", "Not_A_Name")),
    m("schema.core", "Deployment", ("spec.replica", 2)),
    m("schema.core", "ServiceAccount", ("metadata.label", {})),
    m("schema.core", "NetworkPolicy", ("spec.policyTypes", "Ingress")),
    m("schema.kuberay", "RayCluster", ("spec.idleTerminationOptions", {})),
    m("schema.kuberay", "RayCluster", ("spec.headGroupSpec", GONE)),
    m("schema.kuberay", "RayCluster", ("spec.autoscalerOptions.version", "v3")),
    m("schema.kuberay", "RayCluster", ("spec.workerGroupSpecs.0.minReplicas", "two")),
    m("schema.kuberay", "RayCluster", ("spec.workerGroupSpecs.0.rayStartParams.num-cpus", 4)),
    m("schema.kuberay", "RayCluster", (f"{RAY}.resorces", {})),
    m("schema.kuberay", "RayService", ("spec.rayClusterSpec", {})),
    m("schema.kuberay", "RayCronJob", ("spec.concurrencyPolicy", "Forbid")),
    m("schema.kuberay", "RayJob", ("spec.preRunningDeadlineSeconds", 0)),
    m("schema.metadata", "RayJob", ("metadata.label", {"a": "b"})),
    m("schema.version", "RayCluster", ("apiVersion", "ray.io/v1alpha1")),
    m("schema.quantity", "RayCluster", (f"{RAY}.resources.limits.memory", "8 Gigs")),
    m("schema.quantity", "RayCluster", (f"{RAY}.resources.requests.cpu", 99)),
    m("cel.managed-by", "RayCluster", ("spec.managedBy", "me")),
    m("cel.deletion", "RayJob", ("spec.deletionStrategy", {"onSuccess": {"policy": "DeleteSelf"}})),
    m("cel.deletion", "RayJob", ("spec.deletionStrategy", {"deletionRules": [
        {"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED", "jobDeploymentStatus": "Failed"}}]})),
    m("cel.deletion", "RayJob", ("spec.deletionStrategy", {"deletionRules": [
        {"policy": "DeleteSelf", "condition": {"ttlSeconds": 1}}]})),
    m("cel.deletion", "RayJob", ("spec.deletionStrategy", {
        "onSuccess": {"policy": "DeleteSelf"}, "onFailure": {"policy": "DeleteSelf"},
        "deletionRules": [{"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED"}}]})),
    # The operator's own rules for clusters.
    m("operator.containers", "RayCluster", (f"{SPEC}.{HEAD}.containers", [])),
    m("operator.resources", "RayCluster", (f"{GPU}.rayStartParams.num-gpus", "1")),
    m("operator.labels", "RayCluster", (f"{GPU}.rayStartParams.labels", "a=b")),
    m("operator.labels", "RayCluster", (f"{GPU}.labels.zone", "no spaces!")),
    m("operator.labels", "RayCluster", (f"{GPU}.labels.-bad-", "x")),
    m("operator.group-name", "RayCluster", (f"{GPU}.groupName", "cpu")),
    m("operator.replicas", "RayCluster", (f"{GPU}.minReplicas", 50)),
    m("operator.replicas", "RayCluster", (f"{GPU}.minReplicas", -1)),
    m("operator.replicas", "RayCluster", (f"{GPU}.replicas", 50)),
    m("operator.autoscaler", "RayCluster", (ENV, {"name": "RAY_enable_autoscaler_v2", "value": "1"})),
    m("operator.autoscaler", "RayCluster", ("spec.enableInTreeAutoscaling", False),
      ("spec.autoscalerOptions", GONE), (ENV, {"name": "RAY_enable_autoscaler_v2", "value": "1"})),
    m("operator.autoscaler", "RayCluster", ("spec.autoscalerOptions.env",
      [{"name": "KUBERAY_GEN_AUTOSCALER_START_CMD", "value": "x"}])),
    m("operator.restart", "RayCluster", (f"{GPU}.template.spec.restartPolicy", "Always")),
    m("operator.suspend", "RayCluster", (f"{GPU}.suspend", True)),
    m("operator.idle", "RayCluster", ("spec.autoscalerOptions.idleTimeoutSeconds", -5)),
    m("operator.idle", "RayCluster", ("spec.autoscalerOptions.version", "v1")),
    m("operator.priority", "RayCluster", ("spec.rayVersion", "2.55.0")),
    m("operator.priority", "RayCluster", ("spec.autoscalerOptions.version", GONE)),
    m("operator.token", "RayCluster", ("spec.rayVersion", "2.51.0")),
    m("operator.token", "RayCluster", ("spec.authOptions.enableK8sTokenAuth", True)),
    m("operator.token", "RayService", (f"{CONFIG}.authOptions", {"mode": "token", "enableK8sTokenAuth": True})),
    m("operator.gcs", "RayCluster", (ENV, {"name": "RAY_REDIS_ADDRESS", "value": "redis:6379"})),
    m("operator.gcs", "RayCluster", (f"{SPEC}.headGroupSpec.rayStartParams.redis-password", "x")),
    m("operator.gcs", "RayCluster", (f"{SPEC}.headGroupSpec.rayStartParams.redis-username", "x")),
    m("operator.gcs", "RayCluster", ("metadata|annotations", {"ray.io/ft-enabled": "true"})),
    m("operator.gcs", "RayCluster", ("spec.gcsFaultToleranceOptions.backend", "rocksdb")),
    m("operator.gcs", "RayCluster", ("spec.gcsFaultToleranceOptions.storage", {"size": "1Gi"})),
    m("operator.network", "RayCluster", ("spec.networkPolicy", {
        "mode": "DenyAllIngress", "head": {"egressRules": [{"ports": [{"port": 443}]}]}})),
    m("operator.network", "RayCluster", ("spec.networkPolicy", {"workerGroups": [{"groupName": "nobody"}]})),
    m("operator.tls", "RayCluster", (ENV, {"name": "RAY_USE_TLS", "value": "1"})),
    m("operator.tls", "RayCluster", ("spec.autoscalerOptions.volumeMounts.+",
      {"name": "ray-tls", "mountPath": "/etc/ray/tls"})),
    m("operator.history", "RayCluster", ("spec.historyServerOptions", {})),
    m("operator.history", "RayCluster", ("spec.historyServerOptions", {"collectorOptions": {
        "image": "a/b:1", "env": [{"name": "STORAGE_BACKEND", "value": "S3"}]}})),
    m("operator.gate", "RayCluster", ("spec.historyServerOptions", {"collectorOptions": {"image": "a/b:1"}})),
    # Names, jobs, schedules, services.
    m("operator.name", "RayCluster", ("metadata.name", "a" * 54)),
    m("operator.name", "RayService", ("metadata.name", "a" * 48)),
    m("operator.name", "RayCronJob", ("metadata.name", "a" * 37)),
    m("operator.name", "RayJob", ("metadata.name", "1st")),
    m("operator.job", "RayJob", ("spec.submissionMode", "Magic")),
    m("operator.job", "RayJob", ("spec.suspend", True), ("spec.shutdownAfterJobFinishes", False)),
    m("operator.job", "RayJob", ("spec.rayClusterSpec", GONE)),
    m("operator.job", "RayJob", ("spec.clusterSelector", {"ray.io/cluster": ""})),
    m("operator.job", "RayJob", ("spec.clusterSelector", {"ray.io/cluster": "x"})),
    m("operator.job", "RayJob", ("spec.submissionMode", "InteractiveMode")),
    m("operator.job", "RayJob", ("spec.submissionMode", "SidecarMode")),
    m("operator.job", "RayJob", ("spec.activeDeadlineSeconds", 0)),
    m("operator.job", "RayJob", ("spec.backoffLimit", -1)),
    m("operator.job", "RayJob", ("spec.entrypoint", GONE)),
    m("operator.deletion", "RayJob", ("spec.shutdownAfterJobFinishes", False)),
    m("operator.deletion", "RayJob", ("spec.deletionStrategy", {"deletionRules": [
        {"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED"}}]})),
    m("operator.deletion", "RayJob", ("spec.shutdownAfterJobFinishes", GONE),
      ("spec.ttlSecondsAfterFinished", GONE), ("spec.deletionStrategy", {"deletionRules": [
        {"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED", "ttlSeconds": 60}},
        {"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED", "ttlSeconds": 30}}]})),
    m("operator.deletion", "RayJob", ("spec.shutdownAfterJobFinishes", GONE),
      ("spec.ttlSecondsAfterFinished", GONE), ("spec.deletionStrategy", {"deletionRules": [
        {"policy": "DeleteWorkers", "condition": {"jobStatus": "FAILED"}}]})),
    m("operator.runtime-env", "RayJob", ("spec.runtimeEnvYAML", "a: b: c")),
    m("operator.runtime-env", "RayJob", ("spec.runtimeEnvYAML", "- pip")),
    m("operator.schedule", "RayCronJob", ("spec.schedule", "0 25 * * *")),
    m("operator.schedule", "RayCronJob", ("spec.schedule", "* * * *")),
    m("operator.schedule", "RayCronJob", ("spec.schedule", "TZ=UTC 0 1 * * *")),
    m("operator.schedule", "RayCronJob", ("spec.timeZone", "Mars/Olympus")),
    m("cluster.history", "RayCronJob", ("spec.jobTemplate.shutdownAfterJobFinishes", GONE)),
    m("operator.service", "RayService", (f"{CONFIG}.headGroupSpec.headService", {"metadata": {"name": "x"}})),
    m("operator.service", "RayService", (f"{CONFIG}.upgradeStrategy", {"type": "Recreate"})),
    m("operator.service", "RayService", ("metadata|annotations", {"ray.io/initializing-timeout": "soon"})),
    m("operator.service", "RayService", ("spec.serviceUnhealthySecondThreshold", 9)),
    m("operator.upgrade", "RayService", ("spec.upgradeStrategy.type", "Rolling")),
    m("operator.upgrade", "RayService", (f"{CONFIG}.enableInTreeAutoscaling", False)),
    m("operator.upgrade", "RayService", (f"{UPGRADE}.stepSizePercent", 60)),
    m("operator.upgrade", "RayService", (f"{UPGRADE}.maxSurgePercent", 101)),
    m("operator.upgrade", "RayService", (f"{UPGRADE}.intervalSeconds", 0)),
    m("operator.upgrade", "RayService", (f"{UPGRADE}.gatewayClassName", "")),
    m("operator.upgrade", "RayService", (UPGRADE, GONE)),
    # Kueue.
    m("kueue.job", "RayJob", ("spec.shutdownAfterJobFinishes", False)),
    m("kueue.job", "RayJob", ("spec.clusterSelector", {"ray.io/cluster": "x"})),
    m("kueue.autoscaling", "RayJob", ("metadata.annotations", {})),
    m("kueue.groups", "RayJob", (f"{JOB}.workerGroupSpecs.0.groupName", "head")),
    m("kueue.groups", "RayJob", (f"{JOB}.workerGroupSpecs", [{"groupName": f"g{n}"} for n in range(20)])),
    m("kueue.queue", "RayJob", ("metadata|labels|kueue.x-k8s.io/queue-name", "nowhere")),
    m("kueue.queue", "LocalQueue", ("spec.clusterQueue", "nowhere")),
    m("kueue.flavor", "ClusterQueue", ("spec.resourceGroups.0.flavors.0.name", "nothing")),
    m("kueue.quota", "ClusterQueue", ("spec.resourceGroups.0.coveredResources.0", "cpus")),
    m("kueue.quota", "ClusterQueue", ("spec.resourceGroups.0.flavors.0.resources.0.nominalQuota", -1)),
    m("kueue.quota", "ClusterQueue", ("spec.cohortName", GONE),
      ("spec.resourceGroups.0.flavors.0.resources.0.borrowingLimit", 1)),
    # Serve, runtime environments, ray start.
    m("serve.config", "RayService", (SERVE, GONE)),
    m("serve.config", "RayService", (SERVE, "a: b: c")),
    m("serve.config", "RayService", (SERVE, "applications: []")),
    m("serve.unknown", "RayService", (SERVE, ("num_replicas: 2", "num_replicas: 2\n    replicas: 3"))),
    m("serve.unknown", "RayService", (SERVE, ("applications:", "application:\n  - a: b\napplications:"))),
    m("serve.unknown", "RayService", (SERVE, ("      - name: control\n", "      - name: control\n        max_concurrent_queries: 5\n"))),
    m("serve.autoscaling", "RayService", (SERVE, ("      - name: control\n", "      - name: control\n        autoscaling_config: {min_replicas: 5, max_replicas: 2}\n"))),
    m("serve.value", "RayService", (SERVE, ("route_prefix: /v1", "route_prefix: /"))),
    m("serve.value", "RayService", (SERVE, ("route_prefix: /v1", "route_prefix: v1"))),
    m("serve.value", "RayService", (SERVE, ("proxy_location: EveryNode", "proxy_location: Everywhere"))),
    m("serve.import", "RayService", (SERVE, ("serve_apps.cluster:control", "serve_apps.cluster:controler"))),
    m("serve.import", "RayService", (SERVE, ("serve_apps.cluster:control", "serve_apps.nowhere:control"))),
    m("serve.import", "RayService", (SERVE, ("serve_apps.cluster:control", "not a path"))),
    m("serve.runtime-env", "RayService", (SERVE, ("    args: {}", "    args: {}\n    runtime_env: {working_dir: .}"))),
    m("serve.runtime-env", "RayJob", ("spec.runtimeEnvYAML", "pips: [x]")),
    m("ray.start", "RayCluster", ("spec.headGroupSpec.rayStartParams.num-cpu", "0")),
    m("ray.start", "RayCluster", ("spec.headGroupSpec.rayStartParams.num-cpus", "half")),
    # Pods, as written and as the operator makes them.
    m("pod.privileged", "RayCluster", (f"{SECURITY}.privileged", True)),
    m("pod.escalation", "RayCluster", (f"{SECURITY}.allowPrivilegeEscalation", GONE)),
    m("pod.capabilities", "RayCluster", (f"{SECURITY}.capabilities", {"drop": []})),
    m("pod.capabilities", "RayCluster", (f"{SECURITY}.capabilities.add", ["SYS_PTRACE"])),
    m("pod.root", "RayCluster", (f"{SPEC}.{HEAD}.securityContext.runAsUser", 0)),
    m("pod.root", "RayCluster", (f"{SECURITY}.runAsNonRoot", False)),
    m("pod.seccomp", "RayCluster", (f"{SPEC}.{HEAD}.securityContext.seccompProfile", GONE)),
    m("pod.read-only", "RayCluster", (f"{SECURITY}.readOnlyRootFilesystem", GONE)),
    m("pod.read-only", "RayCluster", ("spec.autoscalerOptions.securityContext", GONE)),
    m("pod.host", "RayCluster", (f"{SPEC}.{HEAD}.hostNetwork", True)),
    m("pod.host", "RayCluster", (f"{RAY}.ports.0.hostPort", 6379)),
    m("pod.proc", "RayCluster", (f"{SECURITY}.procMount", "Unmasked")),
    m("pod.sysctl", "RayCluster", (f"{SPEC}.{HEAD}.securityContext.sysctls", [{"name": "kernel.msgmax", "value": "1"}])),
    m("pod.volume-kind", "RayCluster", (f"{SPEC}.{HEAD}.volumes.+", {"name": "h", "hostPath": {"path": "/"}})),
    m("pod.volume-kind", "Deployment", (f"{POD}.volumes.+", {"name": "h", "hostPath": {"path": "/"}})),
    m("pod.volume", "RayCluster", (f"{RAY}.volumeMounts.+", {"name": "nothing", "mountPath": "/x"})),
    m("pod.volume", "RayCluster", (f"{RAY}.volumeMounts.+", {"name": "tmp", "mountPath": "/spill"})),
    m("schema.kuberay", "RayCluster", (f"{RAY}.ports.0.containerPort", "gcs")),
    m("pod.image", "RayCluster", (f"{RAY}.image", "rayproject/ray:latest")),
    m("pod.image", "RayCluster", (f"{RAY}.image", "rayproject/ray")),
    m("pod.env", "RayCluster", (ENV, {"name": "DO_NOT_TRACK", "value": "0"})),
    m("pod.secret", "RayCluster", (ENV, {"name": "DB_PASSWORD", "value": "hunter2"})),
    m("pod.resources", "RayCluster", (f"{RAY}.resources", {})),
    m("pod.pre-stop", "RayCluster", (f"{RAY}.lifecycle", {"preStop": {"exec": {"command": ["ray stop"]}}})),
    m("pod.root", "RayJob", ("spec.submitterPodTemplate.spec.securityContext", GONE),
      ("spec.submitterPodTemplate.spec.containers.0.securityContext", GONE)),
    m("pod.escalation", "StatefulSet", (f"{POD}.containers.0.securityContext", GONE)),
    # What we ask beyond that.
    m("cluster.auth", "RayCluster", ("spec.authOptions", GONE)),
    m("cluster.auth", "RayCluster", ("spec.authOptions.mode", GONE)),
    m("cluster.auth", "RayService", (f"{CONFIG}.authOptions.mode", "disabled")),
    m("cluster.dashboard", "RayCluster", ("spec.headGroupSpec.enableIngress", True)),
    m("cluster.dashboard", "RayCluster", ("spec.headGroupSpec.serviceType", "LoadBalancer")),
    m("cluster.secret", "RayCluster", ("spec.gcsFaultToleranceOptions.redisPassword", {"value": "x"})),
    m("cluster.version", "RayCluster", ("spec.rayVersion", "2.59.0")),
    m("cluster.version", "RayCluster", ("spec.rayVersion", GONE)),
    m("cluster.version", "RayCluster", (f"{RAY}.image", "rayproject/ray:2.58.0-py311")),
    m("cluster.autoscaler", "RayCluster", ("spec.autoscalerOptions.version", GONE)),
    m("cluster.head", "RayCluster", ("spec.headGroupSpec.rayStartParams.num-cpus", "4")),
    m("cluster.spot", "RayCluster", ("spec.workerGroupSpecs.1.priority", 1)),
    m("cluster.group", "RayCluster", (f"{GPU}.maxReplicas", 0)),
    m("cluster.state", "RayService", (f"{CONFIG}.gcsFaultToleranceOptions", GONE)),
    m("cluster.state", "RayService", (f"{CONFIG}.gcsFaultToleranceOptions", {"backend": "rocksdb"})),
    m("cluster.state", "RayService", ("spec.excludeHeadPodFromServeSvc", GONE)),
    m("cluster.drain", "RayCluster", (f"{GPU}.template.spec.terminationGracePeriodSeconds", 30)),
    m("cluster.drain", "RayCluster", (f"{SPEC}.{HEAD}.terminationGracePeriodSeconds", GONE)),
    m("cluster.gpu", "RayCluster", (f"{GPU}.template.spec.tolerations", GONE)),
    m("cluster.gpu", "RayCluster", (f"{GPU}.template.spec.nodeSelector", GONE)),
    m("cluster.gpu", "RayCluster", (f"{GPU}.resources", GONE), (
        f"{GPU}.template.spec.containers.0.resources|limits".replace(".", "|"),
        {"cpu": 4, "memory": "4Gi", "nvidia.com/mig-1g.10gb": 1})),
    m("cluster.disk", "RayCluster", (f"{RAY}.resources.requests.ephemeral-storage", GONE)),
    m("cluster.disk", "RayCluster", (f"{GPU}.rayStartParams.object-spilling-directory", "/nowhere")),
    m("cluster.identity", "RayCluster", (f"{GPU}.template.spec.automountServiceAccountToken", GONE)),
    m("cluster.identity", "RayCluster", (f"{GPU}.template.spec.serviceAccountName", "default")),
    # Encrypted with a key of the customer's own.
    m("encryption.volume", "StorageClass", ("parameters.kmsKeyId", GONE)),
    m("encryption.volume", "StorageClass", ("parameters.encrypted", "false")),
    m("encryption.claim", "PersistentVolumeClaim", ("spec.storageClassName", GONE)),
    m("encryption.claim", "StatefulSet", (
        "spec.volumeClaimTemplates.0.spec.storageClassName", GONE)),
    # Names that others must have, and who reaches whom.
    m("reference.account", "RayCluster", (f"{GPU}.template.spec.serviceAccountName", "nobody")),
    m("reference.priority", "RayCluster", (f"{GPU}.template.spec.priorityClassName", "vip")),
    m("reference.secret", "RayCluster", ("spec.authOptions.secretName", "nothing")),
    m("reference.secret", "RayCluster", (ENV, {"name": "X", "valueFrom": {"secretKeyRef": {"name": "nothing", "key": "k"}}})),
    m("reference.secret", "RayService", (f"{CONFIG}.gcsFaultToleranceOptions.redisPassword.valueFrom.secretKeyRef.name", "no")),
    m("reference.secret", "ExternalSecret", ("spec.data.0.secretKey", "token"), name="heliostat-ray-token"),
    m("reference.config", "RayCluster", (f"{SPEC}.{HEAD}.volumes.+", {"name": "c", "configMap": {"name": "nothing"}})),
    m("reference.claim", "RayCluster", (f"{SPEC}.{HEAD}.volumes.+", {"name": "p", "persistentVolumeClaim": {"claimName": "no"}})),
    m("reference.budget", "PodDisruptionBudget", ("spec.minAvailable", "50%"), name="heliostat-serve"),
    m("reference.budget", "PodDisruptionBudget", ("spec.minAvailable", GONE), ("spec.maxUnavailable", 1), name="heliostat-serve"),
    m("reference.budget", "PodDisruptionBudget", ("spec.selector.matchLabels", {"a": "b"}), name="heliostat-serve"),
    m("reference.monitor", "PodMonitor", ("spec.podMetricsEndpoints.0.port", "prom")),
    m("reference.monitor", "PodMonitor", ("spec.selector.matchLabels", {"a": "b"})),
    m("reference.service", "Service", ("spec.ports.0.targetPort", "nothing"), name="mlflow"),
    m("reference.service", "Service", ("spec.selector", {"app": "nothing"}), name="mlflow"),
    m("reference.route", "HTTPRoute", ("spec.parentRefs.0.name", "nothing")),
    m("reference.route", "HTTPRoute", ("spec.rules.0.backendRefs.0.name", "nothing")),
    m("network.open", "NetworkPolicy", ("spec.ingress.+", {}), name="ray-dev"),
    m("network.open", "NetworkPolicy", ("spec.ingress.+", {"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}), name="ray-heads"),
    m("network.open", "NetworkPolicy", ("spec.ingress.+", {"from": [{"podSelector": {}}]}), name="ray-serve"),
)  # fmt: skip
