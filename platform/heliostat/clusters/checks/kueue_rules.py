"""Kueue 0.19: its webhooks' rules for Ray objects, and quotas that can admit something."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from heliostat.clusters.checks.bundle import Bundle, items, mapping, mappings, say
from heliostat.clusters.checks.shape import quantity
from heliostat.clusters.document import Document
from heliostat.clusters.finding import Finding

QUEUE = "kueue.x-k8s.io/queue-name"
ELASTIC = "kueue.x-k8s.io/elastic-job"
MAX_POD_SETS = 18
_CLUSTER_KEY = {"RayCluster": None, "RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}


def ray_objects(bundle: Bundle) -> Iterator[Finding]:
    """What Kueue's webhooks ask of an object with a queue."""
    queues = {item.name for item in bundle.of_kind("LocalQueue")}
    for item in bundle.ray():
        labels = mapping(item.metadata.get("labels"))
        if item.kind not in _CLUSTER_KEY or QUEUE not in labels:
            continue
        if bundle.is_whole and str(labels[QUEUE]) not in queues:
            yield say(item, "kueue.queue", f"metadata.labels.{QUEUE}", labels[QUEUE],
                      "must name a LocalQueue", "the object would stay suspended for ever")  # fmt: skip
        key = _CLUSTER_KEY[item.kind]
        yield from _queued(item, item.spec if key is None else mapping(item.spec.get(key)))


def _queued(item: Document, cluster: Mapping[str, Any]) -> Iterator[Finding]:
    annotations = mapping(item.metadata.get("annotations"))
    if item.kind == "RayJob":
        if item.spec.get("shutdownAfterJobFinishes") is not True:
            yield say(item, "kueue.job", "spec.shutdownAfterJobFinishes",
                      item.spec.get("shutdownAfterJobFinishes"), "must be true in a queue")  # fmt: skip
        if mapping(item.spec.get("clusterSelector")):
            yield say(item, "kueue.job", "spec.clusterSelector", "...",
                      "must not be set in a queue", "the cluster it names is admitted by itself")  # fmt: skip
    is_elastic = annotations.get(ELASTIC) == "true"
    if cluster.get("enableInTreeAutoscaling") is True and not is_elastic:
        yield say(item, "kueue.autoscaling", f"metadata.annotations.{ELASTIC}",
                  annotations.get(ELASTIC), 'must be "true" with autoscaling in a queue')  # fmt: skip
    if is_elastic and cluster.get("managedBy") == "kueue.x-k8s.io/multikueue":
        yield say(item, "kueue.autoscaling", f"metadata.annotations.{ELASTIC}", "true",
                  "must not be combined with MultiKueue")  # fmt: skip
    groups = mappings(cluster.get("workerGroupSpecs"))
    num_sets = len(groups) + 1 + (item.kind == "RayJob")
    if num_sets > MAX_POD_SETS:
        yield say(item, "kueue.groups", "workerGroupSpecs", len(groups),
                  f"must give at most {MAX_POD_SETS} pod sets in a queue", f"it gives {num_sets}")  # fmt: skip
    for group in groups:
        if group.get("groupName") == "head":
            yield say(item, "kueue.groups", "workerGroupSpecs[head].groupName", "head",
                      "must be another name in a queue")  # fmt: skip


def quotas(bundle: Bundle) -> Iterator[Finding]:
    """Cluster queues: flavors exist, cover the same resources, borrow only in a cohort."""
    flavors = {item.name for item in bundle.of_kind("ResourceFlavor")}
    cluster_queues = {item.name for item in bundle.of_kind("ClusterQueue")}
    for item in bundle.of_kind("ClusterQueue"):
        has_cohort = bool(item.spec.get("cohortName") or item.spec.get("cohort"))
        seen: set[str] = set()
        for index, group in enumerate(mappings(item.spec.get("resourceGroups"))):
            where = f"spec.resourceGroups[{index}]"
            covered = [str(name) for name in items(group.get("coveredResources"))]
            for name in sorted(seen & set(covered)):
                yield say(item, "kueue.quota", where, name, "must be in one resource group only")
            seen |= set(covered)
            for flavor in mappings(group.get("flavors")):
                yield from _flavor(item, f"{where}.flavors[{flavor.get('name')}]", flavor, covered,
                                   has_cohort)  # fmt: skip
                if bundle.is_whole and str(flavor.get("name")) not in flavors:
                    yield say(item, "kueue.flavor", f"{where}.flavors", flavor.get("name"),
                              "must name a ResourceFlavor", "the queue would stay inactive")  # fmt: skip
        preemption = mapping(item.spec.get("preemption"))
        borrowing = mapping(preemption.get("borrowWithinCohort")).get("policy", "Never")
        if preemption.get("reclaimWithinCohort", "Never") == "Never" and borrowing != "Never":
            yield say(item, "kueue.quota", "spec.preemption.borrowWithinCohort", borrowing,
                      "needs reclaimWithinCohort other than Never")  # fmt: skip
    for item in bundle.of_kind("LocalQueue"):
        if bundle.is_whole and str(item.spec.get("clusterQueue")) not in cluster_queues:
            yield say(item, "kueue.queue", "spec.clusterQueue", item.spec.get("clusterQueue"),
                      "must name a ClusterQueue")  # fmt: skip


def _flavor(
    item: Document, where: str, flavor: Mapping[str, Any], covered: list[str], has_cohort: bool
) -> Iterator[Finding]:
    resources = mappings(flavor.get("resources"))
    names = [str(resource.get("name")) for resource in resources]
    if names != covered:
        yield say(item, "kueue.quota", f"{where}.resources", names,
                  "must be the covered resources in their order", f"these are {covered}")  # fmt: skip
    for resource in resources:
        for key in ("nominalQuota", "borrowingLimit", "lendingLimit"):
            value = resource.get(key)
            if value is not None and (quantity(value) is None or (quantity(value) or 0) < 0):
                yield say(item, "kueue.quota", f"{where}.resources[{resource.get('name')}].{key}",
                          value, "must be an amount of 0 or more")  # fmt: skip
            if key != "nominalQuota" and value is not None and not has_cohort:
                yield say(item, "kueue.quota", f"{where}.resources[{resource.get('name')}].{key}",
                          value, "needs a cohort")  # fmt: skip
