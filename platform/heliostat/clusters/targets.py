"""What differs between EKS, GKE, AKS and machines of one's own: labels, taints, identity, volumes.

Label keys are the clouds' and NVIDIA's; which of our pools a node belongs to is a label of our own,
set by the node pools that we render, so no instance type is named anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from heliostat.clusters.recipe import ClusterRecipe, CpuGroup, GpuGroup, Target, TpuGroup

POOL_LABEL = "heliostat.io/pool"
ACCELERATOR_LABEL = {
    "eks": "karpenter.k8s.aws/instance-gpu-name",
    "gke": "cloud.google.com/gke-accelerator",
    "aks": "heliostat.io/accelerator",
    "onprem": "nvidia.com/gpu.product",
}
_SPOT_LABEL = {
    "eks": ("karpenter.sh/capacity-type", "spot"),
    "gke": ("cloud.google.com/gke-spot", "true"),
    "aks": ("kubernetes.azure.com/scalesetpriority", "spot"),
}
_GPU_TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """One kind of nodes, and the worker group that runs there."""

    name: str
    group: CpuGroup | GpuGroup | TpuGroup
    is_spot: bool
    max_workers: int
    priority: int
    """Spot first: of groups that fit equally, Ray's autoscaler takes the highest."""


def pools(group: CpuGroup | GpuGroup | TpuGroup) -> tuple[Pool, ...]:
    """Split a group into its spot part, tried first, and its on-demand part.

    The on-demand part may take all workers, so that losing spot costs money and not capacity.
    """
    if isinstance(group, TpuGroup):
        most = group.max_slices
        return (Pool(name=group.name, group=group, is_spot=False, max_workers=most, priority=0),)
    on_demand = Pool(
        name=group.name, group=group, is_spot=False, max_workers=group.max_workers, priority=10
    )
    num_spot = round(group.max_workers * group.spot_share_percent / 100)
    if num_spot == 0:
        return (on_demand,)
    spot = Pool(
        name=f"{group.name}-spot", group=group, is_spot=True, max_workers=num_spot, priority=20
    )
    return (spot, on_demand)


def all_pools(recipe: ClusterRecipe) -> tuple[Pool, ...]:
    """Every pool of a recipe, spot before on-demand."""
    groups: list[CpuGroup | GpuGroup | TpuGroup] = [recipe.cpu, *recipe.gpus, *recipe.tpus]
    return tuple(pool for group in groups for pool in pools(group))


def node_selector(target: Target, pool: Pool) -> dict[str, str]:
    """Say which nodes the pool's workers may run on."""
    selector = {POOL_LABEL: pool.name}
    if pool.is_spot:
        key, value = _SPOT_LABEL[target]
        selector[key] = value
    if isinstance(pool.group, GpuGroup):
        selector[ACCELERATOR_LABEL[target]] = pool.group.accelerator
    if isinstance(pool.group, TpuGroup):
        selector["cloud.google.com/gke-tpu-accelerator"] = pool.group.accelerator
        selector["cloud.google.com/gke-tpu-topology"] = pool.group.topology
    return selector


def tolerations(target: Target, pool: Pool) -> list[dict[str, str]]:
    """Say which taints the pool's workers put up with."""
    found: list[dict[str, str]] = []
    if isinstance(pool.group, GpuGroup):
        found.append(_GPU_TOLERATION)
    if isinstance(pool.group, TpuGroup):
        found.append({"key": "google.com/tpu", "operator": "Exists", "effect": "NoSchedule"})
    if pool.is_spot:
        key, value = _SPOT_LABEL[target]
        found.append({"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"})
    return found


def market(pool: Pool) -> dict[str, str]:
    """Ray's own labels of the pool's nodes, for label selectors of tasks and actors."""
    labels = {"ray.io/market-type": "spot" if pool.is_spot else "on-demand"}
    if isinstance(pool.group, GpuGroup):
        labels["ray.io/accelerator-type"] = pool.group.accelerator
    return labels


def accelerators(pool: Pool) -> dict[str, Any]:
    """Extended resources that a worker of the pool asks Kubernetes for."""
    group = pool.group
    if isinstance(group, TpuGroup):
        return {"google.com/tpu": group.chips_per_host}
    if not isinstance(group, GpuGroup) or group.sharing == "dra":
        return {}
    if group.sharing == "mig":
        return {f"nvidia.com/mig-{group.mig_profile}": 1}
    if group.sharing == "time-slicing":
        return {"nvidia.com/gpu.shared": 1}
    return {"nvidia.com/gpu": group.gpus_per_worker}


def account_annotations(recipe: ClusterRecipe, account: str) -> dict[str, str]:
    """Tie a service account to its cloud identity; nothing on premises."""
    identity: str = getattr(recipe.identity, account)
    return {
        "eks": {"eks.amazonaws.com/role-arn": identity},
        "gke": {"iam.gke.io/gcp-service-account": identity},
        "aks": {"azure.workload.identity/client-id": identity},
        "onprem": {},
    }[recipe.target]


def identity_labels(target: Target) -> dict[str, str]:
    """Labels that a Pod needs for its identity."""
    return {"azure.workload.identity/use": "true"} if target == "aks" else {}


def storage_class(recipe: ClusterRecipe) -> dict[str, Any] | None:
    """The class of encrypted volumes; None on premises, where the class is the user's own."""
    key = recipe.storage.customer_key
    provisioner: str
    parameters: Mapping[str, Any]
    if recipe.target == "eks":
        provisioner = "ebs.csi.aws.com"
        parameters = {"type": "gp3", "encrypted": "true", "kmsKeyId": key}
    elif recipe.target == "gke":
        provisioner = "pd.csi.storage.gke.io"
        parameters = {"type": "pd-balanced", "disk-encryption-kms-key": key}
    elif recipe.target == "aks":
        provisioner = "disk.csi.azure.com"
        parameters = {"skuName": "Premium_LRS", "diskEncryptionSetID": key}
    else:
        return None
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": recipe.storage.volume_class},
        "provisioner": provisioner,
        "parameters": dict(parameters),
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": True,
        "reclaimPolicy": "Retain",
    }
