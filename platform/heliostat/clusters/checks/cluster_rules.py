"""What we ask of a Ray cluster beyond what is refused: that it is guarded, drains and scales."""

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

DEFAULT_DRAIN_S = 30
"""Ray 2.60's own, equal to Kubernetes' default grace."""
_TPU_SELECTORS = ("cloud.google.com/gke-tpu-accelerator", "cloud.google.com/gke-tpu-topology")
_SPOT = re.compile(r"spot|preemptible", re.IGNORECASE)
_DASHBOARD_TYPES = ("LoadBalancer", "NodePort")


def clusters(bundle: Bundle) -> Iterator[Finding]:
    """All rules for all clusters."""
    for cluster in bundle.clusters():
        yield from _guarded(cluster)
        yield from _versions(cluster, bundle.ray_version)
        yield from _autoscaling(cluster)
        yield from _state(cluster)
        for group in cluster.groups:
            if group.containers:
                yield from _drain(cluster, group)
                yield from _accelerators(cluster, group)
                yield from _disk(cluster, group)
                yield from _identity(cluster, group)


def _guarded(cluster: RaySpec) -> Iterator[Finding]:
    options = mapping(cluster.spec.get("authOptions"))
    if not cluster.has_token:
        yield cluster.say("cluster.auth", "authOptions.mode", options.get("mode"),
                          "must be written as token",
                          "without it everybody who reaches the port runs code on the cluster")  # fmt: skip
    head = cluster.head
    if head.spec.get("enableIngress") is True:
        yield cluster.say("cluster.dashboard", "headGroupSpec.enableIngress", True,
                          "must be false", "the dashboard starts jobs; use `kubectl ray session`")  # fmt: skip
    service = mapping(mapping(head.spec.get("headService")).get("spec")).get("type")
    for key, value in (
        ("serviceType", head.spec.get("serviceType")),
        ("headService.spec.type", service),
    ):
        if value in _DASHBOARD_TYPES:
            yield cluster.say("cluster.dashboard", f"headGroupSpec.{key}", value,
                              "must be ClusterIP", "it opens the dashboard and GCS to the outside")  # fmt: skip
    for key in ("redisPassword", "redisUsername"):
        credential = mapping(mapping(cluster.spec.get("gcsFaultToleranceOptions")).get(key))
        if credential.get("value") and key == "redisPassword":
            yield cluster.say("cluster.secret", f"gcsFaultToleranceOptions.{key}.value", "...",
                              "must come from a Secret")  # fmt: skip


def _versions(cluster: RaySpec, pinned: str | None) -> Iterator[Finding]:
    written = cluster.spec.get("rayVersion")
    version = version_of(written)
    if written is None:
        yield cluster.say("cluster.version", "rayVersion", None, "must be set",
                          "the operator decides by it what Ray understands")  # fmt: skip
        return
    if version is None:
        yield cluster.say("cluster.version", "rayVersion", written, "must look like 2.60.0")
        return
    if pinned is not None and written != pinned:
        yield cluster.say("cluster.version", "rayVersion", written,
                          f"must be the pinned Ray {pinned}")  # fmt: skip
    for group in cluster.groups:
        image = group.ray.get("image")
        tag = _tag(image) if isinstance(image, str) else ""
        found = version_of(re.sub(r"^[^\d]*", "", tag))
        if found is not None and found != version:
            yield _at(cluster, group, "cluster.version", "template.spec.containers[0].image", image,
                      f"must be Ray {written}, as rayVersion says")  # fmt: skip


def _tag(image: str) -> str:
    name = image.split("@", 1)[0].rsplit("/", 1)[-1]
    return name.partition(":")[2]


def _autoscaling(cluster: RaySpec) -> Iterator[Finding]:
    if cluster.is_autoscaled and not cluster.is_autoscaled_v2:
        yield cluster.say("cluster.autoscaler", "autoscalerOptions.version",
                          mapping(cluster.spec.get("autoscalerOptions")).get("version"),
                          "must be written as v2",
                          "Ray runs v2 by default, but the operator then treats it as v1", "warning")  # fmt: skip
    if cluster.is_autoscaled and cluster.head.params.get("num-cpus") != "0":
        yield cluster.say("cluster.head", "headGroupSpec.rayStartParams.num-cpus",
                          cluster.head.params.get("num-cpus"), 'must be "0"',
                          "tasks on the head can take the whole cluster down", "warning")  # fmt: skip
    spot = [group for group in cluster.workers if _is_spot(group)]
    for group in spot:
        for other in cluster.workers:
            if other not in spot and _shape(other) == _shape(group) and (
                (number(group.spec.get("priority")) or 0) <= (number(other.spec.get("priority")) or 0)
            ):  # fmt: skip
                yield _at(cluster, group, "cluster.spot", "priority", group.spec.get("priority"),
                          f"must be above that of {other.name}",
                          "on-demand nodes would be taken while spot is there", "warning")  # fmt: skip
    for group in cluster.workers:
        if number(group.spec.get("maxReplicas")) == 0:
            yield _at(cluster, group, "cluster.group", "maxReplicas", 0, "must be above 0",
                      "no demand can ever start this group", "warning")  # fmt: skip


def _is_spot(group: Group) -> bool:
    selector = mapping(group.pod.get("nodeSelector"))
    market = mapping(group.spec.get("labels")).get("ray.io/market-type")
    return market == "spot" or any(
        _SPOT.search(f"{key}={value}") and value != "false" for key, value in selector.items()
    )


def _shape(group: Group) -> tuple[Any, ...]:
    limits = mapping(mapping(group.ray.get("resources")).get("limits"))
    return tuple(sorted((str(key), str(value)) for key, value in limits.items()))


def _state(cluster: RaySpec) -> Iterator[Finding]:
    options = cluster.spec.get("gcsFaultToleranceOptions")
    if cluster.document.kind != "RayService":
        return
    if not isinstance(options, Mapping):
        yield cluster.say("cluster.state", "gcsFaultToleranceOptions", None, "must be set",
                          "a restart of the head would be an outage of the service", "warning")  # fmt: skip
    elif options.get("backend") == "rocksdb":
        yield cluster.say("cluster.state", "gcsFaultToleranceOptions.backend", "rocksdb",
                          "must be redis for a service",
                          "an upgrade has two heads, and the volume has one writer")  # fmt: skip
    is_excluded = cluster.document.spec.get("excludeHeadPodFromServeSvc") is True
    if cluster.head.params.get("num-cpus") == "0" and not is_excluded:
        yield cluster.say("cluster.state", "headGroupSpec", False,
                          "needs excludeHeadPodFromServeSvc: true",
                          "a head without CPUs has no replica to answer with", "warning")  # fmt: skip


def _drain(cluster: RaySpec, group: Group) -> Iterator[Finding]:
    text = env_of(group.ray).get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", DEFAULT_DRAIN_S)
    try:
        drain_s = float(text)
    except (TypeError, ValueError):
        yield _at(cluster, group, "cluster.drain", "template", text,
                  "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S must be a number")  # fmt: skip
        return
    grace = group.pod.get("terminationGracePeriodSeconds", 30)
    if number(grace) is None or grace <= drain_s:
        yield _at(cluster, group, "cluster.drain", "template.spec.terminationGracePeriodSeconds",
                  grace, f"must be above Ray's drain of {drain_s:g} s",
                  "the Pod is killed while it drains")  # fmt: skip


def _accelerators(cluster: RaySpec, group: Group) -> Iterator[Finding]:
    limits = mapping(mapping(group.ray.get("resources")).get("limits"))
    gpus = [
        key for key in limits if str(key).startswith("nvidia.com/") or str(key).endswith("/gpu")
    ]
    has_claims = bool(items(group.pod.get("resourceClaims")))
    says_gpu = "num-gpus" in group.params or "GPU" in mapping(group.spec.get("resources"))
    hidden = [key for key in gpus if not str(key).endswith("gpu")]
    if (hidden or has_claims) and not says_gpu:
        yield _at(cluster, group, "cluster.gpu", "resources", hidden or "resourceClaims",
                  'must say GPU: "1"',
                  "Ray's autoscaler sees no GPU here, so the group never grows")  # fmt: skip
    if (gpus or has_claims) and not group.is_head:
        selector = mapping(group.pod.get("nodeSelector"))
        affinity = mapping(mapping(group.pod.get("affinity")).get("nodeAffinity"))
        if not selector and not affinity:
            yield _at(cluster, group, "cluster.gpu", "template.spec.nodeSelector", None,
                      "must choose the GPU's nodes")  # fmt: skip
        accepted = mappings(group.pod.get("tolerations"))
        if not any((item.get("operator") == "Exists" and not item.get("key")) or
                   item.get("key") == "nvidia.com/gpu" or "gpu" in str(item.get("key")).lower()
                   or "gpu" in str(item.get("value")).lower() for item in accepted):  # fmt: skip
            yield _at(cluster, group, "cluster.gpu", "template.spec.tolerations", accepted,
                      "must accept the taint of GPU nodes", "the Pod would wait for ever")  # fmt: skip
    if "google.com/tpu" in limits:
        selector = mapping(group.pod.get("nodeSelector"))
        for key in _TPU_SELECTORS:
            if key not in selector:
                yield _at(cluster, group, "cluster.tpu", "template.spec.nodeSelector", sorted(selector),
                          f"must have {key}", "Ray's autoscaler needs both to size a slice")  # fmt: skip


def _disk(cluster: RaySpec, group: Group) -> Iterator[Finding]:
    resources = mapping(group.ray.get("resources"))
    if "ephemeral-storage" not in mapping(resources.get("requests")):
        yield _at(cluster, group, "cluster.disk", "template.spec.containers[0].resources.requests",
                  sorted(map(str, mapping(resources.get("requests")))), "must have ephemeral-storage",
                  "spilling fills the node, and the kubelet evicts by request", "warning")  # fmt: skip
    folder = group.params.get("object-spilling-directory")
    mounts = [str(item.get("mountPath")) for item in mappings(group.ray.get("volumeMounts"))]
    if isinstance(folder, str) and not any(folder.startswith(path) for path in mounts):
        yield _at(cluster, group, "cluster.disk", "rayStartParams.object-spilling-directory", folder,
                  "must be on a mounted volume")  # fmt: skip


def _identity(cluster: RaySpec, group: Group) -> Iterator[Finding]:
    if not group.is_head and group.pod.get("automountServiceAccountToken") is not False:
        yield _at(cluster, group, "cluster.identity", "template.spec.automountServiceAccountToken",
                  group.pod.get("automountServiceAccountToken"), "must be false",
                  "a task could talk to the API server", "warning")  # fmt: skip
    if group.pod.get("serviceAccountName") in (None, "", "default"):
        yield _at(cluster, group, "cluster.identity", "template.spec.serviceAccountName",
                  group.pod.get("serviceAccountName"), "must name an account of its own",
                  "rights given to default are given to every Pod", "warning")  # fmt: skip


def _at(
    cluster: RaySpec, group: Group, check: str, key: str, value: Any, rule: str,
    breaks: str | None = None, level: Any = "error",
) -> Finding:  # fmt: skip
    path = f"{group.path}.{key}".removeprefix(f"{cluster.path}.")
    return cluster.say(check, path, value, rule, breaks, level)
