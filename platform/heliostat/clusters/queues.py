"""Kueue: who waits, who borrows, who is preempted. Written against v1beta2 of Kueue 0.19."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from heliostat.clusters import targets
from heliostat.clusters.foundation import PRIORITIES, metadata
from heliostat.clusters.recipe import ClusterRecipe, TpuGroup

API = "kueue.x-k8s.io/v1beta2"
ADMISSION = "admissionregistration.k8s.io/v1"
ROLES: tuple[Literal["train", "batch"], ...] = ("train", "batch")


def labels(recipe: ClusterRecipe, role: str) -> dict[str, str]:
    """Labels by which Kueue finds a job's queue and rank."""
    return {
        "kueue.x-k8s.io/queue-name": f"{recipe.name}-{role}",
        "kueue.x-k8s.io/priority-class": f"{recipe.name}-{role}",
    }


ANNOTATIONS = {"kueue.x-k8s.io/elastic-job": "true"}
"""Lets a queued cluster scale."""


def for_schedules(recipe: ClusterRecipe, roles: Mapping[str, str]) -> list[dict[str, Any]]:
    """Policies that put the children of RayCronJobs into their queues.

    KubeRay 1.7 gives a child no label of ours. The API server applies these before it calls Kueue's
    webhook; it has the kind since Kubernetes 1.36.

    Args:
        recipe: The platform.
        roles: ``train`` or ``batch`` by name of the scheduled job.
    """
    found = []
    for role in ROLES:
        owners = [f"{recipe.name}-{name}" for name, its in roles.items() if its == role]
        if owners:
            found += _for_schedules(recipe, role, owners)
    return found


def _for_schedules(recipe: ClusterRecipe, role: str, owners: list[str]) -> list[dict[str, Any]]:
    # JSON's texts, lists and objects are CEL's too.
    condition = (
        "has(object.metadata.ownerReferences) && object.metadata.ownerReferences.exists("
        f'o, o.kind == "RayCronJob" && o.name in {json.dumps(owners)})'
    )
    change = (
        f"Object{{metadata: Object.metadata{{labels: {json.dumps(labels(recipe, role))}, "
        f"annotations: {json.dumps(ANNOTATIONS)}}}}}"
    )
    name = f"{recipe.name}-scheduled-{role}"
    where = {"matchLabels": {"kubernetes.io/metadata.name": recipe.namespace}}
    rule = {
        "apiGroups": ["ray.io"], "apiVersions": ["v1"], "operations": ["CREATE"],
        "resources": ["rayjobs"],
    }  # fmt: skip
    return [
        {
            "apiVersion": ADMISSION,
            "kind": "MutatingAdmissionPolicy",
            "metadata": metadata(recipe, name),
            "spec": {
                "failurePolicy": "Fail",
                "reinvocationPolicy": "Never",
                "matchConstraints": {"namespaceSelector": where, "resourceRules": [rule]},
                "matchConditions": [{"name": "made-by-a-schedule", "expression": condition}],
                "mutations": [
                    {
                        "patchType": "ApplyConfiguration",
                        "applyConfiguration": {"expression": change},
                    }
                ],
            },
        },
        {
            "apiVersion": ADMISSION,
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": metadata(recipe, name),
            "spec": {"policyName": name},
        },
    ]


def queues(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    """Flavors per pool, one cluster queue in a cohort and a local queue per role."""
    return [
        *_flavors(recipe),
        *[_cluster_queue(recipe, role) for role in ROLES],
        *[
            {
                "apiVersion": API,
                "kind": "LocalQueue",
                "metadata": metadata(recipe, f"{recipe.name}-{role}", recipe.namespace),
                "spec": {"clusterQueue": f"{recipe.name}-{role}"},
            }
            for role in ROLES
        ],
        *[
            {
                "apiVersion": API,
                "kind": "WorkloadPriorityClass",
                "metadata": metadata(recipe, f"{recipe.name}-{role}"),
                "value": PRIORITIES[role],
                "description": f"Heliostat: {role}",
            }
            for role in ROLES
        ],
    ]


def _flavors(recipe: ClusterRecipe) -> list[dict[str, Any]]:
    found = [
        {
            "apiVersion": API,
            "kind": "ResourceFlavor",
            "metadata": metadata(recipe, f"{recipe.name}-system"),
            "spec": {"nodeLabels": {targets.POOL_LABEL: "system"}},
        }
    ]
    for pool in targets.all_pools(recipe):
        spec: dict[str, Any] = {"nodeLabels": {targets.POOL_LABEL: pool.name}}
        if tolerations := targets.tolerations(recipe.target, pool):
            spec["tolerations"] = tolerations
        found.append(
            {
                "apiVersion": API,
                "kind": "ResourceFlavor",
                "metadata": metadata(recipe, f"{recipe.name}-{pool.name}"),
                "spec": spec,
            }
        )
    return found


def _cluster_queue(recipe: ClusterRecipe, role: str) -> dict[str, Any]:
    """All pools in one group: cpu, memory, disk and every accelerator that some pool has."""
    pools = targets.all_pools(recipe)
    names = ["cpu", "memory", "ephemeral-storage"]
    for pool in pools:
        names += [name for name in targets.accelerators(pool) if name not in names]
    flavors = [_quota(f"{recipe.name}-system", names, {"cpu": 16, "memory": 64, "disk": 200}, {})]
    for pool in pools:
        size = pool.group.size
        num_pods = pool.max_workers
        if isinstance(pool.group, TpuGroup):
            num_pods *= pool.group.num_hosts
        amounts = {
            "cpu": num_pods * (size.cpus + 1),
            "memory": num_pods * (size.memory_gib + 1),
            "disk": num_pods * (size.spill_gib + 21),
        }
        accelerators = {
            name: int(count) * num_pods for name, count in targets.accelerators(pool).items()
        }
        flavors.append(_quota(f"{recipe.name}-{pool.name}", names, amounts, accelerators))
    return {
        "apiVersion": API,
        "kind": "ClusterQueue",
        "metadata": metadata(recipe, f"{recipe.name}-{role}"),
        "spec": {
            "cohortName": recipe.name,
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": recipe.namespace}},
            "queueingStrategy": "BestEffortFIFO",
            "preemption": {
                "withinClusterQueue": "LowerPriority",
                "reclaimWithinCohort": "Any" if role == "train" else "LowerPriority",
            },
            "resourceGroups": [{"coveredResources": names, "flavors": flavors}],
        },
    }


def _quota(
    flavor: str, names: list[str], amounts: dict[str, int], accelerators: dict[str, int]
) -> dict[str, Any]:
    values = {
        "cpu": amounts["cpu"],
        "memory": f"{amounts['memory']}Gi",
        "ephemeral-storage": f"{amounts['disk']}Gi",
        **accelerators,
    }
    return {
        "name": flavor,
        "resources": [{"name": name, "nominalQuota": values.get(name, 0)} for name in names],
    }
